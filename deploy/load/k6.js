// Payments that sign.py has signed, each submitted and followed until it is final. Without a file of them
// accounts are read. No proto files: k6 asks the gateway (reflection).
//
//     k6 run --env TRANSACTIONS=transactions.json --env RATE=500 --env DURATION=30s deploy/load/k6.js
import { check } from 'k6';
import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import grpc from 'k6/net/grpc';

const target = __ENV.TARGET || '127.0.0.1:50051';
const FINAL = 'TRANSACTION_FINALITY_FINAL';
const file = __ENV.TRANSACTIONS;
const transactions = new SharedArray('transactions', () => (file ? JSON.parse(open(file)) : []));

export const options = {
  scenarios: {
    load: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 500),
      duration: __ENV.DURATION || '30s',
      preAllocatedVUs: 100,
      maxVUs: 1000,
    },
  },
  thresholds: { checks: ['rate>0.999'] },
};

const client = new grpc.Client();
let connected = false;

export default function () {
  if (!connected) {
    client.connect(target, { plaintext: true, reflect: true });
    connected = true;
  }
  if (!file) {
    const address = '85/W5RqtiPb0zmq4gnJ5z/+5ImY=';
    const reply = client.invoke('atoll.v1.LedgerService/GetAccount', { address });
    check(reply, { read: (r) => r.status === grpc.StatusOK });
    return;
  }
  // Each once: there have to be as many as RATE times DURATION.
  const next = exec.scenario.iterationInTest;
  if (next >= transactions.length) {
    exec.test.abort(`${transactions.length} transactions are too few: sign more`);
  }
  const taken = client.invoke('atoll.v1.LedgerService/SubmitTransaction', transactions[next]);
  if (!check(taken, { taken: (r) => r.status === grpc.StatusOK })) {
    return;
  }
  const wait = { hash: /** @type {any} */ (taken.message).hash, wait: 'WAIT_FINAL', timeoutMs: 10000 };
  const found = client.invoke('atoll.v1.LedgerService/GetReceipt', wait);
  check(found, {
    final: (r) => r.status === grpc.StatusOK && /** @type {any} */ (r.message).receipt.finality === FINAL,
  });
}
