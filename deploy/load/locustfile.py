"""Locust: each user has an account of its own, pays, and waits until that is final; now and then it reads.

    pip install -r deploy/load/requirements.txt
    locust --locustfile deploy/load/locustfile.py --headless --users 50 --spawn-rate 10 --run-time 30s \
        --host 127.0.0.1:50051
"""

import itertools
import secrets
import time

import grpc.experimental.gevent
from eth_account import Account
from locust import User, constant, events, task
from locust.exception import LocustError

grpc.experimental.gevent.init_gevent()

from ledger import Ledger  # noqa: E402 (after gRPC has been told of gevent)
from sign import DEVELOPMENT_KEY, FINAL, PAYEE, payment  # noqa: E402

ETHER = 10**18


class Bank:
    """Gives each user money, one after another: its transactions are one account's."""

    def __init__(self, target):
        self.ledger = Ledger(target)
        self.chain = self.ledger.GetCluster().chain_id
        self.account = Account.from_key(DEVELOPMENT_KEY)
        address = bytes.fromhex(self.account.address[2:])
        self.nonces = itertools.count(self.ledger.GetAccount(address=address).nonce)

    def fund(self, address):
        raw = payment(self.account, self.chain, next(self.nonces), address, ETHER)
        sent = self.ledger.SubmitTransaction(transaction=raw).hash
        self.ledger.GetReceipt(hash=sent, wait=FINAL, timeout_ms=20000)


BANKS = {}


@events.test_start.add_listener
def open_bank(environment, **_):
    BANKS[environment.host] = Bank(environment.host)


class Payer(User):
    wait_time = constant(0)

    def on_start(self):
        bank = BANKS[self.host]
        # One channel for all users would be one connection.
        self.ledger = Ledger(self.host)
        self.chain = bank.chain
        self.account = Account.from_key(secrets.token_bytes(32))
        self.nonce = 0
        bank.fund(self.account.address)

    def timed(self, name, call):
        began, error, reply = time.perf_counter(), None, None
        try:
            reply = call()
        except (grpc.RpcError, LocustError) as caught:
            error = caught
        events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=reply.ByteSize() if reply else 0,
            exception=error,
        )
        return reply

    @task(4)
    def pay(self):
        raw = payment(self.account, self.chain, self.nonce, PAYEE, 1)
        taken = self.timed("SubmitTransaction", lambda: self.ledger.SubmitTransaction(transaction=raw))
        if taken is None:
            return
        self.nonce += 1
        self.timed("GetReceipt final", lambda: self.final(taken.hash))

    def final(self, sent):
        reply = self.ledger.GetReceipt(hash=sent, wait=FINAL, timeout_ms=20000)
        if reply.receipt.finality != FINAL:
            raise LocustError(f"not final: {reply.receipt}")
        return reply

    @task(1)
    def read(self):
        address = bytes.fromhex(self.account.address[2:])
        self.timed("GetAccount", lambda: self.ledger.GetAccount(address=address))
