// What users of web3.js do, against a running cluster: node web3.mjs http://HOST:PORT
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Web3 } from "web3";

const url = process.argv[2];
const contracts = process.env.CONTRACTS ?? new URL("../../contracts/artifacts", import.meta.url).pathname;
const { abi, bytecode } = JSON.parse(readFileSync(`${contracts}/Token.json`));
const key = "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a";

const web3 = new Web3(url);
web3.eth.transactionPollingInterval = 100;
const alice = web3.eth.accounts.wallet.add(key)[0].address;
const bob = web3.eth.accounts.create().address;
const token = await new web3.eth.Contract(abi)
  .deploy({ data: bytecode, arguments: ["Token", "T", 1000n] })
  .send({ from: alice });
const filter = await web3.eth.getPastLogs({ address: token.options.address, fromBlock: "earliest" });
assert.equal(filter.length, 1);
const receipt = await token.methods.transfer(bob, 7n).send({ from: alice });
assert.equal(receipt.status, 1n);
assert.equal(receipt.events.Transfer.returnValues.value, 7n);
assert.equal(await token.methods.balanceOf(bob).call(), 7n);
const [event] = await token.getPastEvents("Transfer", { fromBlock: receipt.blockNumber, toBlock: receipt.blockNumber });
assert.equal(event.transactionHash, receipt.transactionHash);
await assert.rejects(token.methods.transfer(bob, 10n ** 9n).call({ from: alice }), (error) => {
  return error.cause?.errorName === "ERC20InsufficientBalance" || error.message.includes("reverted");
});
const batch = new web3.BatchRequest();
const asked = ["eth_chainId", "eth_blockNumber"].map((method, id) => batch.add({ jsonrpc: "2.0", id: id + 1, method, params: [] }));
await batch.execute();
assert.equal(BigInt(await asked[0]), 31337n);
const block = await web3.eth.getBlock(receipt.blockNumber, true);
assert.ok(block.transactions.some((tx) => tx.hash === receipt.transactionHash));

// Over a WebSocket: heads and events as they come.
const socket = new Web3(url.replace("http", "ws"));
const heads = await socket.eth.subscribe("newBlockHeaders");
const logs = await socket.eth.subscribe("logs", { address: token.options.address });
const heard = Promise.all([heads, logs].map((each) => new Promise((resolve) => each.once("data", resolve))));
const sent = await token.methods.transfer(bob, 8n).send({ from: alice });
const [head, log] = await heard;
assert.ok(BigInt(head.number) > 0n);
assert.equal(log.transactionHash, sent.transactionHash);
socket.currentProvider.disconnect();
console.log("web3.js: ok");
