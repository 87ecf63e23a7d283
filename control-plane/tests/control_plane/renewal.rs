//! Certificates that are renewed by a member, its own among them.

use crate::subscriber::{Got, Subscriber, Wish};
use crate::world::{World, edge, eventually, operator, tenant};
use identity::{Identity, Renewal};
use proto::v1;
use proto::v1::identity_client::IdentityClient;
use std::time::Duration;
use time::OffsetDateTime;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_role_gets_a_new_certificate_of_its_own_name() {
    let world = World::of(3, |_| {}).await;
    let dir = world.identity(&edge(1), Duration::from_secs(60));
    let current = Identity::load(&dir).unwrap();
    let renewal = Renewal::begin().unwrap();
    let request = v1::RenewRequest { request: renewal.request().to_owned() };

    let other = IdentityClient::new(world.channel(1, &edge(1))).renew(request.clone()).await.unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition, "only one member holds the authority");
    let reply = IdentityClient::new(world.channel(0, &edge(1))).renew(request).await.unwrap().into_inner();
    let renewed = renewal.finish(&current, &reply.certificate, OffsetDateTime::now_utc()).unwrap();
    assert_eq!(renewed.name(), &edge(1));
    assert!(renewed.not_after() > current.not_after());

    let nonsense = v1::RenewRequest { request: "nonsense".to_owned() };
    let refused = IdentityClient::new(world.channel(0, &operator())).renew(nonsense).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_renews_its_own_certificate_and_drops_no_connection() {
    let world = World::of(1, |file| file.certificate_life_seconds = 10).await;
    let wish = Wish { kinds: vec!["tenant"], ..Wish::default() };
    let mut before = Subscriber::new(&world, 0, &edge(1), wish).await.unwrap();
    assert_eq!(before.next().await.unwrap(), Got::Whole);
    let dir = world.dir().join("cp1.control-plane.us-east.rhumb.internal");
    let first = Identity::load(&dir).unwrap().not_after();
    eventually("the one after the next is there", async || {
        Identity::load(&dir).unwrap().not_after() > first + Duration::from_secs(5)
    })
    .await;
    let line = "rhumb_control_plane_certificate_expiry_seconds";
    assert!(world.metric(0, line).await > 5.0, "the process uses it");
    let last = world.put([tenant("acme", 1)]).await.0;
    before.until(last).await;
}
