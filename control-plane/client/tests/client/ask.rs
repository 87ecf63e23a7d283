//! Questions find a member that answers, and writes are done once.

use crate::member::{Part, World, model};
use client::{Operator, OperatorError, signal};
use identity::CERTIFICATE_LIFE;
use proto::signal::NodeReport;
use proto::v1;
use proto::v1::identity_server::Identity;
use proto::v1::intent_server::Intent;
use proto::v1::signal_server::Signal;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use types::intent::{Change, Expect, ResourceId, What};

/// How a member answers operators, and what it was told.
#[derive(Clone, Default)]
pub struct Answers {
    pub has_no_leader: bool,
    pub writes: Arc<Mutex<Vec<ClientAndSequence>>>,
    pub reports: Arc<Mutex<Vec<v1::NodeReport>>>,
}

type ClientAndSequence = (Vec<u8>, u64);

fn stream<T>(items: impl IntoIterator<Item = T>) -> Response<ReceiverStream<Result<T, Status>>> {
    let (send, sent) = mpsc::channel(100);
    for item in items {
        send.try_send(Ok(item)).unwrap();
    }
    Response::new(ReceiverStream::new(sent))
}

#[tonic::async_trait]
impl Intent for Part {
    type ReadStream = ReceiverStream<Result<v1::ReadReply, Status>>;

    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteReply>, Status> {
        let write = request.into_inner();
        self.intent.writes.lock().unwrap().push((write.client.to_vec(), write.sequence));
        if self.intent.has_no_leader {
            return Err(Status::unavailable("no leader is known"));
        }
        let faults = write.changes.iter().filter_map(|change| match &change.what {
            Some(v1::change::What::Delete(id)) => Some(v1::Fault {
                subject: id.clone(),
                field: String::new(),
                reason: r#"{"code":"not-found"}"#.to_owned(),
            }),
            _ => None,
        });
        Ok(Response::new(v1::WriteReply { incarnation: 7, revision: 5, faults: faults.collect() }))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        if self.intent.has_no_leader {
            return Err(Status::unavailable("no leader is known"));
        }
        if request.get_ref().what == ["nonsense"] {
            return Err(Status::invalid_argument("nonsense is no kind"));
        }
        let reply =
            |name| v1::ReadReply { incarnation: 7, revision: 5, resources: vec![(&model(name)).into()] };
        Ok(stream([reply("a"), reply("b")]))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Ok(Response::new(v1::StatusReply { revision: 5, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl Identity for Part {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        let now = OffsetDateTime::now_utc() + self.ahead;
        let certificate =
            self.authority.sign_request(&self.client, &request.get_ref().request, self.life, now).unwrap();
        Ok(Response::new(v1::RenewReply { certificate, authority: self.authority.certificate().to_owned() }))
    }
}

#[tonic::async_trait]
impl Signal for Part {
    type PicturesStream = ReceiverStream<Result<v1::Picture, Status>>;
    type HeardStream = Self::PicturesStream;

    async fn report(
        &self,
        request: Request<Streaming<v1::NodeReport>>,
    ) -> Result<Response<v1::ReportReply>, Status> {
        let mut reports = request.into_inner();
        while let Some(report) = reports.message().await? {
            self.intent.reports.lock().unwrap().push(report);
        }
        Ok(Response::new(v1::ReportReply {}))
    }

    async fn pictures(
        &self,
        _: Request<v1::PicturesRequest>,
    ) -> Result<Response<Self::PicturesStream>, Status> {
        let report = |region: &str| v1::NodeReport {
            region: region.to_owned(),
            node: "n1".to_owned(),
            loads: Vec::new(),
            age_ms: 40,
        };
        Ok(stream([v1::Picture { reports: vec![report("No Region"), report("us-east")] }]))
    }

    async fn heard(&self, _: Request<v1::PicturesRequest>) -> Result<Response<Self::HeardStream>, Status> {
        Err(Status::unimplemented("for members"))
    }
}

#[tokio::test]
async fn a_write_goes_round_under_one_number() {
    let world = World::new(CERTIFICATE_LIFE);
    let lost = Answers { has_no_leader: true, ..Answers::default() };
    let (first, second) = (
        world.member_with(1, lost.clone(), CERTIFICATE_LIFE).await,
        world
            .member_with(2, Answers { writes: lost.writes.clone(), ..Answers::default() }, CERTIFICATE_LIFE)
            .await,
    );
    let operator = Operator::new(world.dialer(), vec![first.address.clone(), second.address.clone()]);
    let put = Change { expect: Expect::Anything, what: What::Put(model("a").resource) };
    let delete: ResourceId = "model/a".parse().unwrap();
    let delete = Change { expect: Expect::Anything, what: What::Delete(delete) };
    assert_eq!(operator.write(vec![put], false).await.unwrap(), crate::member::position(5));
    let refused = operator.write(vec![delete], false).await.unwrap_err();
    assert_eq!(refused.to_string(), "model/a: is not there");
    let writes = lost.writes.lock().unwrap().clone();
    let client = writes[0].0.clone();
    assert_eq!(client.len(), 16);
    assert_eq!(writes, [1, 1, 2, 2].map(|sequence| (client.clone(), sequence)));

    let (position, read) = operator.read(&["model"]).await.unwrap();
    assert_eq!((position, read), (crate::member::position(5), vec![model("a"), model("b")]));
    let only = Operator::new(world.dialer(), vec![second.address.clone()]);
    assert!(matches!(only.read(&["nonsense"]).await, Err(OperatorError::Denied(_))));
    second.kill();
    while tokio::net::TcpStream::connect(second.address.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let status = operator.status().await;
    assert_eq!(status[0].as_ref().unwrap().revision, 5);
    assert!(status[1].is_err());
}

#[tokio::test]
async fn signals_reach_the_first_member_that_is_there() {
    let world = World::new(CERTIFICATE_LIFE);
    let (dead, answers) = (world.member(1).await, Answers::default());
    let member = world.member_with(2, answers.clone(), CERTIFICATE_LIFE).await;
    dead.kill();
    let members = vec![dead.address.clone(), member.address.clone()];
    let stop = CancellationToken::new();
    let node = "us-east/n1".parse().unwrap();
    let report = NodeReport { node, loads: Vec::new(), age: Duration::from_millis(40) };
    let make = {
        let report = report.clone();
        move || report.clone()
    };
    let reporting = tokio::spawn(signal::report(world.dialer(), members.clone(), make, stop.clone()));
    let (send, mut taken) = mpsc::unbounded_channel();
    let take = move |reports| {
        let _ = send.send(reports);
    };
    let receiving = tokio::spawn(signal::pictures(world.dialer(), members, take, stop.clone()));
    assert_eq!(taken.recv().await.unwrap(), std::slice::from_ref(&report), "the bad one is skipped");
    while answers.reports.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(answers.reports.lock().unwrap()[0], (&report).into());
    stop.cancel();
    reporting.await.unwrap();
    receiving.await.unwrap();
}
