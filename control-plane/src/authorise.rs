//! Who may call what. Every call of every contract is in one table, or it is refused.

use identity::{Name, Role};
use tonic::{Request, Status};

/// One call, and the roles that may make it.
struct Rule {
    service: &'static str,
    call: &'static str,
    roles: &'static [Role],
}

const fn rule(service: &'static str, call: &'static str, roles: &'static [Role]) -> Rule {
    Rule { service, call, roles }
}

/// Whether the bearer of a certificate of this cluster may make a call.
pub(crate) fn authorise(name: &Name, path: &str) -> Result<(), Status> {
    let known = path
        .strip_prefix("/rhumb.v1.")
        .and_then(|path| path.split_once('/'))
        .and_then(|(service, call)| TABLE.iter().find(|rule| rule.service == service && rule.call == call));
    match known {
        None => Err(Status::unimplemented("there is no such call")),
        Some(rule) if rule.roles.contains(&name.role) => Ok(()),
        Some(rule) => {
            let (service, call) = (rule.service, rule.call);
            Err(Status::permission_denied(format!(
                "a process of role {} may not call {service}.{call}",
                name.role
            )))
        }
    }
}

/// Who calls; the door has put it there.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Name, Status> {
    let name = request.extensions().get::<Name>();
    name.cloned().ok_or_else(|| Status::unauthenticated("the caller has no name"))
}

const MEMBERS: &[Role] = &[Role::ControlPlane];
/// Members too: one may ask another for the operator's sake.
const OPERATORS: &[Role] = &[Role::Operator, Role::ControlPlane];
const SUBSCRIBERS: &[Role] = &[Role::Edge, Role::RegionAgent, Role::Operator];

const TABLE: &[Rule] = &[
    // Whether a member of the control plane is a voter, raft itself asks.
    rule("Raft", "AppendStream", MEMBERS),
    rule("Raft", "Append", MEMBERS),
    rule("Raft", "Vote", MEMBERS),
    rule("Raft", "PreVote", MEMBERS),
    rule("Raft", "Install", MEMBERS),
    rule("Raft", "Transfer", MEMBERS),
    rule("Raft", "ReadIndex", MEMBERS),
    rule("Raft", "Propose", MEMBERS),
    rule("Intent", "Write", OPERATORS),
    rule("Intent", "Read", OPERATORS),
    rule("Intent", "Status", OPERATORS),
    rule("Watch", "Subscribe", SUBSCRIBERS),
    // Only for the node that its certificate names.
    rule("Signal", "Report", &[Role::RegionAgent]),
    rule("Signal", "Pictures", &[Role::Edge, Role::Operator]),
    rule("Signal", "Heard", MEMBERS),
    rule("Identity", "Renew", &Role::ALL),
];

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn code(role: Role, service: &str, call: &str) -> Option<Code> {
        let name = Name {
            cluster: "c1".into(),
            region: "us-east".parse().unwrap(),
            role,
            name: "n1".parse().unwrap(),
        };
        authorise(&name, &format!("/rhumb.v1.{service}/{call}")).err().map(|status| status.code())
    }

    #[test]
    fn each_role_may_call_what_it_is_for() {
        use Role::{ControlPlane, Edge, Operator, RegionAgent};
        let expected: &[(&str, &str, &[Role])] = &[
            ("Raft", "AppendStream", &[ControlPlane]),
            ("Raft", "Propose", &[ControlPlane]),
            ("Intent", "Write", &[ControlPlane, Operator]),
            ("Intent", "Read", &[ControlPlane, Operator]),
            ("Intent", "Status", &[ControlPlane, Operator]),
            ("Watch", "Subscribe", &[Edge, RegionAgent, Operator]),
            ("Signal", "Report", &[RegionAgent]),
            ("Signal", "Pictures", &[Edge, Operator]),
            ("Signal", "Heard", &[ControlPlane]),
            ("Identity", "Renew", &[ControlPlane, Edge, RegionAgent, Operator]),
        ];
        for (service, call, roles) in expected {
            for role in Role::ALL {
                let refused = if roles.contains(&role) { None } else { Some(Code::PermissionDenied) };
                assert_eq!(code(role, service, call), refused, "{role} {service}.{call}");
            }
        }
    }

    #[test]
    fn every_call_of_every_contract_is_in_the_table() {
        let contracts = [
            include_str!("../../proto/rhumb/v1/raft.proto"),
            include_str!("../../proto/rhumb/v1/intent.proto"),
            include_str!("../../proto/rhumb/v1/watch.proto"),
            include_str!("../../proto/rhumb/v1/signal.proto"),
            include_str!("../../proto/rhumb/v1/identity.proto"),
        ];
        let mut calls = 0;
        for contract in contracts {
            let mut service = "";
            for line in contract.lines().map(str::trim) {
                if let Some(rest) = line.strip_prefix("service ") {
                    service = rest.trim_end_matches(" {");
                }
                if let Some(rest) = line.strip_prefix("rpc ") {
                    let call = rest.split('(').next().unwrap();
                    let is_callable = Role::ALL.into_iter().any(|role| code(role, service, call).is_none());
                    assert!(is_callable, "{service}.{call} is in no rule");
                    calls += 1;
                }
            }
        }
        assert_eq!(calls, TABLE.len(), "no rule is for a call that is not there");
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let nothing =
            ["", "/", "/rhumb.v1.Raft", "/rhumb.v1.Raft/", "/rhumb.v1.Raft/Vote/", "/rhumb.v2.Raft/Vote"];
        let name: Name = "spiffe://c1/us-east/control-plane/cp1".parse().unwrap();
        for path in nothing {
            assert_eq!(authorise(&name, path).unwrap_err().code(), Code::Unimplemented, "{path}");
        }
    }
}
