//! What a process is, as collectors and dashboards name it.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use crate::config::Config;

/// Attributes of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes(Vec<(String, String)>);

impl Attributes {
    /// As the configuration says, unless `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
    pub fn new(config: &Config, environment: impl Iterator<Item = (String, String)>) -> Self {
        let (mut host, mut given, mut name) = ("localhost".to_owned(), String::new(), None);
        for (variable, value) in environment {
            match variable.as_str() {
                "HOSTNAME" if !value.is_empty() => host = value,
                "OTEL_RESOURCE_ATTRIBUTES" => given = value,
                "OTEL_SERVICE_NAME" if !value.is_empty() => name = Some(value),
                _ => {}
            }
        }
        let (role, shard) = (role(config), shards(config));
        let instance = match shard.as_str() {
            "" => format!("{host}/{role}"),
            shard => format!("{host}/{role}/{shard}"),
        };
        let mut attributes = Self(Vec::new());
        attributes.put("service.name", "atoll");
        attributes.put("service.version", env!("CARGO_PKG_VERSION"));
        attributes.put("service.instance.id", &instance);
        attributes.put("atoll.role", &role);
        if !shard.is_empty() {
            attributes.put("atoll.shard", &shard);
        }
        let pairs = given.split(',').filter_map(|pair| pair.split_once('='));
        pairs.for_each(|(key, value)| attributes.put(key.trim(), value.trim()));
        if let Some(name) = name {
            attributes.put("service.name", &name);
        }
        attributes
    }

    fn put(&mut self, key: &str, value: &str) {
        self.0.retain(|(other, _)| other != key);
        self.0.push((key.to_owned(), value.to_owned()));
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    pub(super) fn for_traces(&self) -> Resource {
        let pairs = self.0.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        Resource::builder_empty().with_attributes(pairs).build()
    }
}

/// What stands in a process: `all`, or its roles.
fn role(config: &Config) -> String {
    let mut roles = Vec::new();
    if config.beacon.is_some() {
        roles.push("beacon".to_owned());
    }
    if config.gateway.is_some() {
        roles.push("gateway".to_owned());
    }
    let mut of_shards: Vec<_> = config.shard.iter().flat_map(|shard| &shard.roles).collect();
    of_shards.sort();
    of_shards.dedup();
    let all_shards = config.shard.len() == usize::from(config.chain.shards);
    if roles.len() == 2 && all_shards && of_shards.len() == 4 {
        return "all".to_owned();
    }
    match of_shards.len() {
        4 => roles.push("shard".to_owned()),
        _ => roles.extend(of_shards.iter().map(|role| format!("{role:?}").to_lowercase())),
    }
    roles.join(",")
}

/// Numbers of the shards of which something stands in a process, if it is not all of them.
fn shards(config: &Config) -> String {
    let ids: std::collections::BTreeSet<u16> = config.shard.iter().map(|shard| shard.id).collect();
    if ids.len() > 1 && ids.len() == usize::from(config.chain.shards) {
        return String::new();
    }
    ids.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::all_here, config::Role, up::development_chain};

    #[test]
    fn a_process_says_what_it_is_and_variables_say_otherwise() {
        let listen = ([127, 0, 0, 1], 0).into();
        let mut config = all_here(development_chain(7, 3), "d".as_ref(), listen);
        let of = |config: &Config, variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Attributes::new(config, variables)
        };
        let get = |attributes: &Attributes, key: &str| {
            attributes.0.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone())
        };
        let all = of(&config, &[]);
        assert_eq!(get(&all, "service.instance.id").as_deref(), Some("localhost/all"));
        assert_eq!(get(&all, "atoll.shard"), None);
        (config.beacon, config.gateway) = (None, None);
        config.shard.retain(|shard| shard.id == 2);
        let one = of(&config, &[("HOSTNAME", "h")]);
        assert_eq!(get(&one, "service.instance.id").as_deref(), Some("h/shard/2"));
        config.shard[0].roles = vec![Role::State];
        let variables = [
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,service.instance.id=i, zone=b"),
            ("OTEL_SERVICE_NAME", "y"),
        ];
        let given = of(&config, &variables);
        let expected = [
            ("atoll.role", "state"),
            ("atoll.shard", "2"),
            ("service.instance.id", "i"),
            ("service.name", "y"),
            ("zone", "b"),
        ];
        for (key, value) in expected {
            assert_eq!(get(&given, key).as_deref(), Some(value), "{key}");
        }
    }
}
