//! Certificates are renewed while connections are open.

use crate::ask::Answers;
use crate::member::{Watched, World, put, whole};
use client::renew::{Signer, keep_renewed, keep_renewed_by};
use identity::Identity;
use time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn open_connections_go_on_and_new_ones_show_the_new_certificate() {
    let life = Duration::seconds(3);
    let world = World::new(life);
    let mut member = world.member_with(1, Answers::default(), life).await;
    let mut watched = Watched::start(&world, &[&member]);
    let subscription = member.subscription().await;
    subscription.send(whole(1, &["a"])).await;
    watched.sees(1, &["a"]).await;

    let (stop, dir) = (CancellationToken::new(), world.dir.path().join("edge"));
    let members = vec![member.address.clone()];
    let renewing = keep_renewed(world.live.clone(), dir.clone(), world.dialer(), members, stop.clone());
    let renewing = tokio::spawn(renewing);
    // Until the certificate with which the stream began is no longer good.
    let first = world.live.current().not_after();
    while time::OffsetDateTime::now_utc() <= first + Duration::seconds(1) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    subscription.send(put(1, 2, "b")).await;
    watched.sees(2, &["a", "b"]).await;
    assert!(member.subscriptions.try_recv().is_err(), "the stream is still the first");
    stop.cancel();
    renewing.await.unwrap();
    let mut shown = member.shown.lock().unwrap().clone();
    shown.dedup();
    assert!(shown.len() >= 3, "{} certificates were shown", shown.len());
    let kept = Identity::load(&dir).unwrap();
    assert_eq!(kept.not_after(), world.live.current().not_after());
    assert!(kept.not_after() > first);
    watched.stop().await;
}

#[tokio::test]
async fn who_holds_the_authority_needs_nobody() {
    let life = Duration::seconds(3);
    let world = World::new(life);
    let (stop, dir) = (CancellationToken::new(), world.dir.path().join("edge"));
    let signer = Signer::Own { authority: world.authority.clone(), life: Duration::days(1) };
    let before = world.live.current().not_after();
    let renewing = tokio::spawn(keep_renewed_by(signer, world.live.clone(), dir, stop.clone()));
    while world.live.current().not_after() == before {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let renewed = world.live.current();
    assert!(renewed.not_after() > before + Duration::hours(23));
    stop.cancel();
    renewing.await.unwrap();
}
