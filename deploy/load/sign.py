"""Signs payments for load generators that cannot.

    python sign.py --count 10000 > transactions.json

The file is a list of SubmitTransactionRequests, as JSON has them: ghz and k6 read it as it is. Each is of a
sender of its own, so that their order does not matter; the senders' money comes from a development account, by
transactions that are sent here and waited for. Senders follow from --seed: give another one each time.
"""

import argparse
import base64
import json
import sys

from eth_account import Account
from eth_utils import keccak

from ledger import Ledger

DEVELOPMENT_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
PAYEE = "0x00000000000000000000000000000000000a7011"
GWEI = 10**9
# WAIT_FINAL, and TRANSACTION_FINALITY_FINAL.
FINAL = 3


def payment(account, chain, nonce, to, value):
    fields = {"type": 2, "chainId": chain, "nonce": nonce, "to": bytes.fromhex(to[2:]), "value": value, "gas": 21000}
    fields |= {"maxFeePerGas": 100 * GWEI, "maxPriorityFeePerGas": GWEI}
    return bytes(account.sign_transaction(fields).raw_transaction)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:50051")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--key", default=DEVELOPMENT_KEY, help="of the account that pays")
    arguments = parser.parse_args()
    ledger = Ledger(arguments.target)
    chain = ledger.GetCluster().chain_id
    payer = Account.from_key(arguments.key)
    nonce = ledger.GetAccount(address=bytes.fromhex(payer.address[2:])).nonce
    requests, last = [], None
    for index in range(arguments.count):
        sender = Account.from_key(keccak(text=f"atoll load {arguments.seed} {index}"))
        funding = payment(payer, chain, nonce + index, sender.address, 10**16)
        last = ledger.SubmitTransaction(transaction=funding).hash
        # The account's transactions are under way in order, and a pool takes only so many of one sender.
        if index % 32 == 31:
            ledger.GetReceipt(hash=last, wait=FINAL, timeout_ms=20000)
        requests.append({"transaction": base64.b64encode(payment(sender, chain, 0, PAYEE, 1)).decode()})
    ledger.GetReceipt(hash=last, wait=FINAL, timeout_ms=20000)
    json.dump(requests, sys.stdout)


if __name__ == "__main__":
    main()
