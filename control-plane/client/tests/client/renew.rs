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

#[tokio::test]
async fn a_disk_that_takes_nothing_keeps_no_certificate_from_being_renewed() {
    let life = Duration::seconds(3);
    let world = World::new(life);
    let (stop, dir) = (CancellationToken::new(), world.dir.path().join("edge"));
    // Where the next pair would be made.
    let obstacle = dir.join("pair-b");
    std::fs::write(&obstacle, "no directory").unwrap();
    let signer = Signer::Own { authority: world.authority.clone(), life };
    let first = world.live.current().not_after();
    let renewing = tokio::spawn(keep_renewed_by(signer, world.live.clone(), dir.clone(), stop.clone()));
    let until = |is_so: fn(time::OffsetDateTime, time::OffsetDateTime) -> bool| {
        let (live, dir) = (world.live.clone(), dir.clone());
        let so = async move {
            loop {
                let kept = Identity::load(&dir).unwrap().not_after();
                if is_so(live.current().not_after(), kept) {
                    return kept;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), so)
    };
    let kept = until(|live, kept| live > kept).await.expect("renewed all the same");
    assert_eq!(kept, first);
    std::fs::remove_file(obstacle).unwrap();
    let kept = until(|live, kept| live == kept).await.expect("kept once the disk takes it");
    assert!(kept > first);
    stop.cancel();
    renewing.await.unwrap();
}

/// Its clock is an hour ahead, so what it signs is good only then.
#[tokio::test]
async fn a_bad_answer_of_one_member_does_not_hide_the_others() {
    let world = World::new(Duration::seconds(3));
    let wrong = world.member_ahead(1, Duration::hours(1)).await;
    let good = world.member_with(2, Answers::default(), Duration::days(1)).await;
    let (stop, dir) = (CancellationToken::new(), world.dir.path().join("edge"));
    let members = vec![wrong.address.clone(), good.address.clone()];
    let before = world.live.current().not_after();
    let renewing = keep_renewed(world.live.clone(), dir, world.dialer(), members, stop.clone());
    let renewing = tokio::spawn(renewing);
    let renewed = async {
        while world.live.current().not_after() == before {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let in_life = std::time::Duration::from_secs(5);
    tokio::time::timeout(in_life, renewed).await.expect("renewed by the other");
    assert!(world.live.current().not_after() > before + Duration::hours(23));
    stop.cancel();
    renewing.await.unwrap();
}
