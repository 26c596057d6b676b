//! Who may call what between processes: the one place that says so. A port lets in whoever may call
//! something of what it serves, and each request is looked up here.
//!
//! The public API is for everybody, and not here.

use std::sync::Arc;

use atoll_fabric::{Visit, tls::Role};
use axum::{
    body::Body,
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};
use tonic::{Status, service::Routes};

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// The services of the same shard.
    Own,
    /// Those of any shard.
    Shards,
    Gateways,
    Operators,
}

use Who::{Gateways, Operators, Own, Shards};

/// The name of a method in a service, and who may call it.
type Method = (&'static str, &'static [Who]);

/// Every service between processes, with its methods.
const MATRIX: &[(&str, &[Method])] = &[
    (
        "atoll.v1.BeaconService",
        &[
            ("Announce", &[Shards]),
            ("Blocks", &[Shards, Gateways, Operators]),
            ("Head", &[Shards, Gateways, Operators]),
            ("BeaconStats", &[Gateways, Operators]),
            ("TakeBeaconSnapshot", &[Operators]),
            ("ReadBeaconSnapshot", &[Operators]),
        ],
    ),
    (
        "atoll.v1.MempoolService",
        &[
            ("Submit", &[Gateways]),
            ("Take", &[Own]),
            ("Report", &[Own]),
            ("Pending", &[Gateways]),
            ("Content", &[Gateways]),
            ("Status", &[Own, Gateways]),
        ],
    ),
    (
        "atoll.v1.ExecutorService",
        &[
            ("Predict", &[Own]),
            ("Debit", &[Own]),
            ("RunGroups", &[Own]),
            ("ExecutorStats", &[Gateways, Operators]),
        ],
    ),
    (
        "atoll.v1.StateService",
        &[
            ("Read", &[Own, Gateways]),
            ("Prove", &[Own, Gateways]),
            ("Append", &[Own]),
            ("Cut", &[Own]),
            ("Outbox", &[Own]),
            ("Share", &[Own]),
            ("Withdraw", &[Own]),
            ("TellDropped", &[Own]),
            ("Quarantine", &[Own]),
            ("StoreResults", &[Own]),
            ("AcceptParts", &[Own]),
            ("ReceiveCredits", &[Own]),
            ("Settle", &[Own]),
            ("Recall", &[Own]),
            ("LeaseLate", &[Own]),
            ("PutCodes", &[Own]),
            ("Watch", &[Own]),
            ("Sync", &[Own]),
            ("Lookup", &[Own, Gateways]),
            ("Ran", &[Own, Gateways]),
            ("RoundsRun", &[Own, Gateways]),
            ("Progress", &[Own, Gateways]),
            ("Feed", &[Own, Gateways]),
            ("TakeSnapshot", &[Operators]),
            ("ReadSnapshot", &[Operators]),
        ],
    ),
    (
        "atoll.v1.RouterService",
        &[
            ("Escalate", &[Own]),
            ("Deliver", &[Shards]),
            ("Fetch", &[Shards]),
            ("RouterStats", &[Gateways, Operators]),
        ],
    ),
    ("atoll.v1.AdminService", &[("Backup", &[Operators])]),
];

/// Services that whoever a port lets in may ask.
const OPEN: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// What a port serves, for whom to let in.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    services: Arc<[&'static str]>,
    /// The shard whose services they are, if they are a shard's.
    shard: Option<u16>,
}

impl Guard {
    pub fn new(services: &[&'static str], shard: Option<u16>) -> Self {
        Self { services: services.into(), shard }
    }

    fn is(&self, who: Who, role: Role) -> bool {
        match (who, role) {
            (Who::Own, Role::Shard(id)) => self.shard == Some(id),
            (Who::Shards, Role::Shard(_))
            | (Who::Gateways, Role::Gateway)
            | (Who::Operators, Role::Operator) => true,
            _ => false,
        }
    }

    /// Whether a role may call something here. Operators ask every port how it is.
    pub fn lets_in(&self, role: Role) -> bool {
        let served = MATRIX.iter().filter(|(service, _)| self.services.contains(service));
        let mut allowed = served.flat_map(|(_, methods)| *methods).flat_map(|(_, who)| *who);
        role == Role::Operator || allowed.any(|who| self.is(*who, role))
    }

    /// Whether one of these roles may make this request.
    fn allows(&self, path: &str, roles: &[Role]) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
        else {
            return false;
        };
        if OPEN.contains(&service) {
            return roles.iter().any(|role| self.lets_in(*role));
        }
        let methods = MATRIX.iter().find(|(name, _)| *name == service);
        let who = methods.and_then(|(_, all)| all.iter().find(|(name, _)| *name == method));
        who.is_some_and(|(_, who)| {
            who.iter().any(|who| roles.iter().any(|role| self.is(*who, *role)))
        })
    }

    /// The same routes, for those who may.
    pub fn routes(self, routes: Routes) -> Routes {
        let look = from_fn(move |request: Request, next: Next| {
            let guard = self.clone();
            async move {
                let visit = request.extensions().get::<Visit>();
                let roles = visit.map(Visit::roles).unwrap_or_default();
                match guard.allows(request.uri().path(), &roles) {
                    true => next.run(request).await,
                    false => refuse(&request, visit, &roles),
                }
            }
        });
        routes.into_axum_router().layer(look).into()
    }
}

fn refuse(request: &Request, visit: Option<&Visit>, roles: &[Role]) -> Response<Body> {
    let path = request.uri().path();
    let roles: Vec<String> = roles.iter().map(Role::to_string).collect();
    let roles = roles.join(", ");
    let from = visit.and_then(|visit| visit.tcp.remote_addr());
    tracing::warn!(?from, roles, path, "a request was refused: its role may not make it");
    Status::permission_denied(format!("{roles} may not call {path}")).into_http()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    /// Whatever is added to a service has to be added here, or nobody may call it.
    #[test]
    fn the_matrix_has_every_method_between_processes_and_no_other() {
        let described =
            prost_types::FileDescriptorSet::decode(atoll_wire::FILE_DESCRIPTOR_SET).expect("own");
        let mut methods = BTreeSet::new();
        for file in &described.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                // The public API.
                if name == "atoll.v1.LedgerService" || !name.starts_with("atoll.") {
                    continue;
                }
                let of = service.method.iter().map(|method| format!("{name}/{}", method.name()));
                methods.extend(of);
            }
        }
        let listed = MATRIX.iter().flat_map(|(service, all)| {
            all.iter().map(move |(method, _)| format!("{service}/{method}"))
        });
        assert_eq!(methods, listed.collect::<BTreeSet<_>>());
    }

    #[test]
    fn each_role_may_do_what_it_has_to_and_no_more() {
        let state = Guard::new(&["atoll.v1.StateService"], Some(1));
        let beacon = Guard::new(&["atoll.v1.BeaconService"], None);
        let admin = Guard::new(&["atoll.v1.AdminService"], None);
        for (guard, role, path, may) in [
            (&state, Role::Shard(1), "/atoll.v1.StateService/Append", true),
            (&state, Role::Shard(0), "/atoll.v1.StateService/Append", false),
            (&state, Role::Gateway, "/atoll.v1.StateService/Append", false),
            (&state, Role::Gateway, "/atoll.v1.StateService/Read", true),
            (&state, Role::Operator, "/atoll.v1.StateService/TakeSnapshot", true),
            (&state, Role::Gateway, "/atoll.v1.StateService/TakeSnapshot", false),
            (&state, Role::Beacon, "/atoll.v1.StateService/Read", false),
            (&state, Role::Operator, "/grpc.health.v1.Health/Check", true),
            (&state, Role::Beacon, "/grpc.health.v1.Health/Check", false),
            (&state, Role::Shard(1), "/atoll.v1.StateService/Nothing", false),
            (&state, Role::Shard(1), "/atoll.v1.StateService", false),
            (&state, Role::Shard(1), "", false),
            (&beacon, Role::Shard(3), "/atoll.v1.BeaconService/Announce", true),
            (&beacon, Role::Gateway, "/atoll.v1.BeaconService/Announce", false),
            (&admin, Role::Operator, "/atoll.v1.AdminService/Backup", true),
            (&admin, Role::Gateway, "/atoll.v1.AdminService/Backup", false),
        ] {
            assert_eq!(guard.allows(path, &[role]), may, "{role} and {path}");
        }
        assert!(!state.allows("/atoll.v1.StateService/Read", &[]));
        let admitted = |guard: &Guard| {
            let all = [Role::Beacon, Role::Shard(0), Role::Shard(1), Role::Gateway, Role::Operator];
            all.map(|role| guard.lets_in(role))
        };
        assert_eq!(admitted(&state), [false, false, true, true, true]);
        assert_eq!(admitted(&beacon), [false, true, true, true, true]);
        assert_eq!(admitted(&admin), [false, false, false, false, true]);
    }
}
