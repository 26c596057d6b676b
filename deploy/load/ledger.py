"""The gateway's API without proto files: messages are made from what it tells of itself (reflection)."""

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "atoll.v1.LedgerService"


class Ledger:
    """Each unary method of the service as a function: `ledger.GetAccount(address=…)`; `watch` streams receipts."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(target)
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        for method in pool.FindServiceByName(SERVICE).methods:
            if not method.client_streaming:
                name = "watch" if method.server_streaming else method.name
                setattr(self, name, self.caller(method))

    def caller(self, method):
        request = message_factory.GetMessageClass(method.input_type)
        reply = message_factory.GetMessageClass(method.output_type)
        shape = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        timeout = None if method.server_streaming else 30
        call = shape(
            f"/{SERVICE}/{method.name}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        return lambda **fields: call(request(**fields), timeout=timeout)
