"""What users of web3.py and cryo do, against a running cluster: python check.py http://HOST:PORT"""

import contextlib
import csv
import glob
import io
import json
import os
import sys
import tempfile

import cryo
from web3 import Web3
from web3.exceptions import ContractCustomError, ContractLogicError

url = sys.argv[1]
contracts = os.environ.get("CONTRACTS", os.path.join(os.path.dirname(__file__), "../../contracts/artifacts"))
with open(f"{contracts}/Token.json") as file:
    artefact = json.load(file)
key = "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba"

w3 = Web3(Web3.HTTPProvider(url, request_kwargs={"timeout": 60}))
assert w3.eth.chain_id == 31337
alice = w3.eth.account.from_key(key)
bob = w3.eth.account.create()


def send(call):
    """Signs what a call is built to, with everything filled in by the node."""
    tx = call.build_transaction({"from": alice.address, "nonce": w3.eth.get_transaction_count(alice.address)})
    assert tx["maxPriorityFeePerGas"] > 0
    sent = w3.eth.send_raw_transaction(alice.sign_transaction(tx).raw_transaction)
    receipt = w3.eth.wait_for_transaction_receipt(sent, poll_latency=0.05)
    assert receipt["status"] == 1
    return receipt


made = send(w3.eth.contract(abi=artefact["abi"], bytecode=artefact["bytecode"]).constructor("Token", "T", 1000))
token = w3.eth.contract(address=made["contractAddress"], abi=artefact["abi"])
events = token.events.Transfer.create_filter(from_block="latest")
receipt = send(token.functions.transfer(bob.address, 5))
assert token.functions.balanceOf(bob.address).call() == 5
assert token.functions.balanceOf(bob.address).call(block_identifier=receipt["blockNumber"] - 1) == 0
[heard] = [event for event in events.get_new_entries() if event["transactionHash"] == receipt["transactionHash"]]
assert heard["args"]["value"] == 5
[logged] = token.events.Transfer().process_receipt(receipt)
assert logged["args"]["to"] == bob.address
block = w3.eth.get_block(receipt["blockNumber"], full_transactions=True)
assert any(tx["hash"] == receipt["transactionHash"] for tx in block["transactions"])
assert w3.eth.fee_history(4, "latest", [50])["baseFeePerGas"]
try:
    token.functions.transfer(bob.address, 10**9).call({"from": alice.address})
    raise AssertionError("it has to revert")
except (ContractCustomError, ContractLogicError):
    pass
print("web3.py: ok")

# cryo exports what there is; blocks without transactions too.
with tempfile.TemporaryDirectory() as directory:
    first, last = made["blockNumber"], receipt["blockNumber"]
    with contextlib.redirect_stdout(io.StringIO()):
        cryo.freeze(
            ["blocks", "transactions", "logs"],
            blocks=[f"{first}:{last + 1}"],
            rpc=url,
            output_dir=directory,
            hex=True,
            file_format="csv",
            no_verbose=True,
        )

    def rows(kind):
        [path] = glob.glob(f"{directory}/*__{kind}__*.csv")
        with open(path) as file:
            return list(csv.DictReader(file))

    assert [int(row["block_number"]) for row in rows("blocks")] == list(range(first, last + 1))
    hashes = {row["transaction_hash"] for row in rows("transactions")}
    assert {made["transactionHash"].to_0x_hex(), receipt["transactionHash"].to_0x_hex()} <= hashes
    assert any(row["address"] == token.address.lower() for row in rows("logs"))
print("cryo: ok")
