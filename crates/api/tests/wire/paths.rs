//! Every request has the path and the messages that the `.proto` files give it.

use std::collections::BTreeMap;

use atoll_fabric::Rpc;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::every_request;

#[test]
fn every_request_is_a_method_with_its_messages() {
    let set = FileDescriptorSet::decode(atoll_wire::FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let mut methods = BTreeMap::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let messages = [method.input_type(), method.output_type()];
                methods.insert(path, messages.map(str::to_owned));
            }
        }
    }
    every_request!(stands_in(&mut methods));
    let internal = ["Mempool", "Executor", "State", "Router", "Beacon"];
    methods.retain(|path, _| {
        internal.iter().any(|name| path.starts_with(&format!("/atoll.v1.{name}Service/")))
    });
    assert!(methods.is_empty(), "without a request: {methods:?}");
}

fn stands_in<M: Rpc>(methods: &mut BTreeMap<String, [String; 2]>) {
    let expected = methods.remove(M::PATH);
    let name = |path: &str| format!(".atoll.v1.{}", path.rsplit("::").next().unwrap_or(path));
    let messages =
        [name(std::any::type_name::<M::Wire>()), name(std::any::type_name::<M::WireReply>())];
    assert_eq!(expected, Some(messages), "{}", M::PATH);
}
