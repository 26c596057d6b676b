"""Writes the state tests beside it. What has to come out is computed by py-evm (MIT), an implementation
of its own in Python, and by nothing of this project:

    pip install py-evm==0.12.1b1 "eth-hash[pycryptodome]" && python fill.py
"""

import json
import pathlib

import rlp
from eth.consensus.pow import PowConsensus
from eth.consensus.noproof import NoProofConsensus
from eth.db.atomic import AtomicDB
from eth.db.chain import ChainDB
from eth.vm.chain_context import ChainContext
from eth.vm.forks import (
    BerlinVM, ByzantiumVM, CancunVM, FrontierVM, HomesteadVM, IstanbulVM, LondonVM, ParisVM,
    PetersburgVM, PragueVM, ShanghaiVM, SpuriousDragonVM, TangerineWhistleVM,
)
from eth_keys import keys
from eth_utils import ValidationError, keccak

FORKS = {
    "Frontier": FrontierVM, "Homestead": HomesteadVM, "EIP150": TangerineWhistleVM,
    "EIP158": SpuriousDragonVM, "Byzantium": ByzantiumVM, "ConstantinopleFix": PetersburgVM,
    "Istanbul": IstanbulVM, "Berlin": BerlinVM, "London": LondonVM, "Paris": ParisVM,
    "Shanghai": ShanghaiVM, "Cancun": CancunVM, "Prague": PragueVM,
}
ORDER = list(FORKS)
CHAIN = 1
KEY = keys.PrivateKey(b"\x45" * 32)
SENDER = KEY.public_key.to_canonical_address()
AUTHORITY = keys.PrivateKey(b"\x46" * 32)
COINBASE = bytes.fromhex("2adc25665018aa1fe0e6bc666dac8fc2697ff9ba")
ENV = {"number": 1, "timestamp": 1000, "gas_limit": 30_000_000, "base_fee": 7,
       "difficulty": 0x20000, "random": 0x20000, "excess_blob_gas": 0x1000000}
RICH = 10**18


def since(fork):
    return ORDER[ORDER.index(fork):]


def between(first, last):
    return ORDER[ORDER.index(first):ORDER.index(last) + 1]


def address(number):
    return b"\xa0" + bytes(18) + bytes([number])


def word(number):
    return number.to_bytes(32, "big")


def account(balance=0, nonce=0, code=b"", storage=None):
    return {"balance": balance, "nonce": nonce, "code": code, "storage": storage or {}}


def hexed(number):
    return hex(number) if number else "0x00"


def header(fork, vm):
    at_least = lambda name: ORDER.index(fork) >= ORDER.index(name)
    fields = {"difficulty": 0 if at_least("Paris") else ENV["difficulty"], "block_number": ENV["number"],
              "gas_limit": ENV["gas_limit"], "timestamp": ENV["timestamp"], "coinbase": COINBASE}
    if at_least("London"):
        fields["base_fee_per_gas"] = ENV["base_fee"]
    if at_least("Paris"):
        fields["mix_hash"] = word(ENV["random"])
    if at_least("Cancun"):
        fields["excess_blob_gas"] = ENV["excess_blob_gas"]
    genesis = {"difficulty": fields["difficulty"], "gas_limit": ENV["gas_limit"], "timestamp": 1}
    return type(vm.create_genesis_header(**genesis))(**fields)


def transaction(vm, tx, data, gas, value, index):
    builder = vm.get_transaction_builder()
    to, nonce = tx.get("to") or b"", tx["nonce"]
    common = {"nonce": nonce, "gas": gas, "to": to, "value": value, "data": data}
    lists = tx.get("access_lists")
    listed = (lists or [None] * (index + 1))[index]
    typed = {"chain_id": CHAIN, "access_list": listed or []}
    if "max_fee" in tx:
        typed |= {"max_fee_per_gas": tx["max_fee"], "max_priority_fee_per_gas": tx["tip"]}
        if "authorizations" in tx:
            tx = builder.new_unsigned_set_code_transaction(
                **common, **typed, authorization_list=[sign(*auth) for auth in tx["authorizations"]])
        elif "blobs" in tx:
            tx = builder.new_unsigned_blob_transaction(
                **common, **typed, max_fee_per_blob_gas=tx["max_blob_fee"],
                blob_versioned_hashes=tx["blobs"])
        else:
            tx = builder.new_unsigned_dynamic_fee_transaction(**common, **typed)
    elif listed is not None:
        tx = builder.new_unsigned_access_list_transaction(**common, **typed, gas_price=tx["gas_price"])
    else:
        tx = builder.create_unsigned_transaction(**common, gas_price=tx["gas_price"])
        return tx.as_signed_transaction(KEY)
    return tx.as_signed_transaction(KEY, CHAIN)


def sign(chain, to, nonce):
    digest = keccak(b"\x05" + rlp.encode([chain, to, nonce]))
    v, r, s = AUTHORITY.sign_msg_hash(digest).vrs
    return {"chain_id": chain, "address": to, "nonce": nonce, "y_parity": v, "r": r, "s": s}


def run(fork, pre, tx, data, gas, value, index):
    """State root, hash of logs, and whether the transaction is refused."""
    vm_class = FORKS[fork]
    db = ChainDB(AtomicDB())
    consensus = PowConsensus if ORDER.index(fork) < ORDER.index("Paris") else NoProofConsensus
    vm = vm_class(header(fork, vm_class), db, ChainContext(CHAIN), consensus(db.db))
    for at, have in pre.items():
        vm.state.set_balance(at, have["balance"])
        vm.state.set_nonce(at, have["nonce"])
        vm.state.set_code(at, have["code"])
        for slot, content in have["storage"].items():
            vm.state.set_storage(at, slot, content)
    vm.state.persist()
    vm._block = vm.get_block().copy(header=vm.get_header().copy(state_root=vm.state.state_root))
    logs, why = [], None
    try:
        signed = transaction(vm, tx, data, gas, value, index)
        receipt, _ = vm.apply_transaction(vm.get_header(), signed)
        logs = [[log.address, [word(topic) for topic in log.topics], log.data] for log in receipt.logs]
    except (ValidationError, AttributeError, rlp.exceptions.SerializationError) as error:
        why = str(error) or type(error).__name__
    # The block's reward of nothing reaches the coinbase in any case.
    if ORDER.index(fork) < ORDER.index("EIP158"):
        vm.state.touch_account(COINBASE)
    elif vm.state.account_is_empty(COINBASE):
        vm.state.delete_account(COINBASE)
    vm.state.persist()
    return vm.state.state_root, keccak(rlp.encode(logs)), why


def fill(name, comment, forks, pre, tx, refused=()):
    """`refused`: the cases (fork, data, gas, value) that have to be, and no others."""
    post, seen = {}, set()
    for fork in forks:
        for d, data in enumerate(tx["data"]):
            for g, gas in enumerate(tx["gas"]):
                for v, value in enumerate(tx["value"]):
                    root, logs, why = run(fork, pre, tx, data, gas, value, d)
                    case = {"hash": "0x" + root.hex(), "logs": "0x" + logs.hex(),
                            "indexes": {"data": d, "gas": g, "value": v}}
                    if why is not None:
                        case["expectException"] = why[:120]
                        seen.add((fork, d, g, v))
                    post.setdefault(fork, []).append(case)
    assert seen == set(refused), (name, seen ^ set(refused))
    test = {"_info": {"comment": comment, "filling-tool": "py-evm 0.12.1b1"},
            "env": environment(), "pre": {"0x" + at.hex(): shown(have) for at, have in pre.items()},
            "transaction": described(tx), "post": post}
    if any(fork in post for fork in ("Cancun", "Prague")):
        test["config"] = {"chainid": hexed(CHAIN), "blobSchedule": {
            "Cancun": {"target": "0x03", "max": "0x06", "baseFeeUpdateFraction": "0x32f0ed"},
            "Prague": {"target": "0x06", "max": "0x09", "baseFeeUpdateFraction": "0x4c6964"}}}
    path = pathlib.Path(__file__).with_name(name + ".json")
    path.write_text(json.dumps({name: test}, indent=1) + "\n")
    print(name, sum(map(len, post.values())), "cases,", len(seen), "refused")


def environment():
    return {"currentCoinbase": "0x" + COINBASE.hex(), "currentNumber": hexed(ENV["number"]),
            "currentTimestamp": hexed(ENV["timestamp"]), "currentGasLimit": hexed(ENV["gas_limit"]),
            "currentDifficulty": hexed(ENV["difficulty"]), "currentRandom": "0x" + word(ENV["random"]).hex(),
            "currentBaseFee": hexed(ENV["base_fee"]),
            "currentExcessBlobGas": hexed(ENV["excess_blob_gas"])}


def shown(have):
    return {"balance": hexed(have["balance"]), "nonce": hexed(have["nonce"]),
            "code": "0x" + have["code"].hex(),
            "storage": {hexed(slot): hexed(content) for slot, content in have["storage"].items()}}


def described(tx):
    shown = {"data": ["0x" + data.hex() for data in tx["data"]],
             "gasLimit": [hexed(gas) for gas in tx["gas"]],
             "value": [hexed(value) for value in tx["value"]], "nonce": hexed(tx["nonce"]),
             "to": "0x" + tx["to"].hex() if tx.get("to") else "",
             "sender": "0x" + SENDER.hex(), "secretKey": "0x" + KEY.to_bytes().hex()}
    if "max_fee" in tx:
        shown |= {"maxFeePerGas": hexed(tx["max_fee"]), "maxPriorityFeePerGas": hexed(tx["tip"])}
    else:
        shown["gasPrice"] = hexed(tx["gas_price"])
    if "access_lists" in tx:
        entry = lambda at, slots: {"address": "0x" + at.hex(),
                                   "storageKeys": ["0x" + word(slot).hex() for slot in slots]}
        shown["accessLists"] = [entries if entries is None else [entry(*e) for e in entries]
                                for entries in tx["access_lists"]]
    if "blobs" in tx:
        shown |= {"blobVersionedHashes": ["0x" + blob.hex() for blob in tx["blobs"]],
                  "maxFeePerBlobGas": hexed(tx["max_blob_fee"])}
    if "authorizations" in tx:
        signer = "0x" + AUTHORITY.public_key.to_canonical_address().hex()
        signed = [sign(*auth) for auth in tx["authorizations"]]
        shown["authorizationList"] = [
            {"chainId": hexed(a["chain_id"]), "address": "0x" + a["address"].hex(),
             "nonce": hexed(a["nonce"]), "v": hexed(a["y_parity"]), "yParity": hexed(a["y_parity"]),
             "r": hexed(a["r"]), "s": hexed(a["s"]), "signer": signer} for a in signed]
    return shown


def legacy(**more):
    return {"data": [b""], "gas": [400_000], "value": [0], "nonce": 0, "gas_price": 10} | more


def priced(**more):
    tx = legacy(max_fee=20, tip=3) | more
    del tx["gas_price"]
    return tx


def cases(forks, data, gas, value):
    return [(f, d, g, v) for f in forks for d in data for g in gas for v in value]


def main():
    callee = address(1)
    rich = {SENDER: account(RICH)}
    fill("transfer", "payments: too little gas, too little money, a new account, an empty one",
         ORDER, rich | {address(9): account()},
         legacy(to=address(9), gas=[20_999, 21_000, 50_000], value=[0, 5, RICH]),
         cases(ORDER, [0], [0], range(3)) + cases(ORDER, [0], [1, 2], [2]))
    # Slot 0 becomes the call's first word; slot 1 is cleared; LOG1 of slot 0's old value.
    store = bytes.fromhex("6000546000526000356000556000600155602a60206000a100")
    fill("storage", "slots set, kept and cleared, with refunds, and a log; or too little gas",
         ORDER, rich | {callee: account(3, 1, store, {0: 5, 1: 7})},
         legacy(to=callee, data=[word(0), word(5), word(9)], gas=[26_000, 400_000]))
    # Code: 6001600055 after a constructor that stores and logs; one that reverts or runs out; 0xEF.
    deploy = bytes.fromhex("6007600055" "60056012600039" "60056000f3" "00" "6001600055")
    fill("create", "creations: with a constructor, one that fails, none, and code that begins with 0xef",
         ORDER, rich, legacy(data=[deploy, b"\xfe", b"", bytes.fromhex("60ef60005360016000f3")],
                             gas=[60_000, 400_000], value=[0, 1]))
    # CREATE of code that destroys itself to 0xa0..08; then a call to a contract that does the same.
    heir = b"\x73" + address(8) + b"\xff"
    dies = b"\x75" + heir + b"\x60\x00\x52" + bytes.fromhex("6016600a600a") + b"\xf0"
    calls = bytes.fromhex("60006000600060006000") + b"\x73" + address(2) + bytes.fromhex("61fffff1")
    fill("selfdestruct", "destruction of an old account with slots, and of a new one",
         ORDER, rich | {callee: account(100, 1, dies + calls), address(2): account(11, 1, heir, {1: 2})},
         legacy(to=callee))
    # What the coinbase has, the base fee and the price of gas go to slots 0 to 2.
    looks = bytes.fromhex("41316000554860015548600155" "3a600255")
    fill("fees", "EIP-1559: the coinbase's balance, the base fee and the price that is paid",
         since("London"), rich | {callee: account(0, 1, looks), COINBASE: account(1_000)},
         priced(to=callee))
    fill("fees_too_low", "EIP-1559: a fee cap below the base fee, and a tip above the cap",
         since("London"), rich, priced(to=callee, max_fee=6, tip=6),
         cases(since("London"), [0], [0], [0]))
    reads = bytes.fromhex("60005450600154" "73") + address(3) + bytes.fromhex("3160025500")
    fill("access_list", "EIP-2930: none, one that helps, one that does not",
         since("Berlin"), rich | {callee: account(0, 1, reads, {1: 4}), address(3): account(5)},
         legacy(to=callee, data=[b""] * 3,
                access_lists=[None, [(callee, [0, 1]), (address(3), [])], [(address(4), [7])]]))
    authority = AUTHORITY.public_key.to_canonical_address()
    # CALLER to slot 0, CODESIZE of itself to slot 1, EXTCODEHASH of the authority to slot 2.
    code = bytes.fromhex("33600055" "38600155" "73") + authority + bytes.fromhex("3f60025500")
    fill("set_code", "EIP-7702: authorisations that hold and some that do not, and a call",
         ["Prague"], rich | {address(2): account(0, 1, code), authority: account(9, 5)},
         priced(to=authority, data=[b"", b"\x01"], gas=[400_000],
                authorizations=[(CHAIN, address(3), 4), (0, address(3), 5), (2, address(3), 6),
                                (CHAIN, address(2), 6)]))
    # BLOBHASH 0 and 1 and BLOBBASEFEE to slots 0 to 2.
    blobs = bytes.fromhex("60004960005560014960015" "54a60025500")
    hashes = [b"\x01" + bytes([n]) * 31 for n in (1, 2)]
    fill("blobs", "EIP-4844: hashes and price of blobs",
         since("Cancun"), rich | {callee: account(0, 1, blobs)},
         priced(to=callee, blobs=hashes, max_blob_fee=1_000))
    fill("blobs_refused", "EIP-4844: the cap for blob gas is below its price",
         since("Cancun"), rich, priced(to=callee, blobs=hashes, max_blob_fee=20),
         cases(since("Cancun"), [0], [0], [0]))
    fill("nonce_refused", "a nonce that is gone, and a gas limit above the block's",
         ORDER, {SENDER: account(RICH, 3)}, legacy(to=callee, nonce=2, gas=[30_000_001, 50_000]),
         cases(ORDER, [0], [0, 1], [0]))


if __name__ == "__main__":
    main()
