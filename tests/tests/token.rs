//! Without the cluster's token nothing is read, written or registered, whichever door is tried: commands, parts of the
//! cluster, every call of every service, the data protocol, and a worker's socket.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use larder_client::FileSystem;
use larder_common::{ErrorKind, Incarnation, Locality, WorkerId};
use larder_proto::{
    Channel, Greeting,
    convert::WorkerAddress,
    data::{HEAD, MAGIC, Way},
    from_status,
    greeting::{FEATURE_DATA, FORMAT, Token},
    shortcircuit::Socket,
    v1::{self, short_reply::What as Answer, short_request::What as Ask},
};
use larder_tests::{Cluster, processes::larder};
use prost::Message;
use tonic::{client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

const SECRET: &str = "the-token-of-this-cluster";

/// What a stranger may have, and how he is refused.
const STRANGERS: [(Option<&str>, &str); 2] = [(None, "no cluster token"), (Some("wrong"), "a wrong cluster token")];

fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::new()?.with("LARDER_SECURITY_TOKEN", SECRET);
    cluster.start_master()?;
    cluster.start_worker(0)?;
    fs::write(cluster.under().join("file"), "content")?;
    Ok(cluster)
}

async fn friend(cluster: &Cluster) -> Result<FileSystem> {
    Ok(FileSystem::connect(cluster.client()?.token(SECRET).build()).await?)
}

fn greeting(token: Option<&str>) -> Greeting {
    Greeting::of_server("test", token.map(Token::new).unwrap_or_default())
}

fn channel(port: u16, token: Option<&str>) -> Result<Channel> {
    let channel = Channel::to("127.0.0.1", port)?;
    channel.greet(&greeting(token));
    Ok(channel)
}

/// Runs a part or a command with this token, in the surroundings of the cluster, to its end.
fn run(cluster: &Cluster, token: Option<&str>, more: &[(&str, &Path)], arguments: &[&str]) -> Result<Output> {
    let settings = cluster.settings().into_iter().filter(|(name, _)| name != "LARDER_SECURITY_TOKEN");
    let mut command = Command::new("timeout");
    command.arg("20").arg(larder()).args(arguments).env_clear().envs(settings).stdin(Stdio::null());
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.env("LARDER_WORKER_RPC_PORT", "0").env("LARDER_WORKER_WEB_PORT", "0").env("LARDER_FUSE_WEB_PORT", "0");
    command.envs(token.map(|token| ("LARDER_SECURITY_TOKEN", token))).envs(more.iter().copied());
    Ok(command.output()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_no_part_joins_and_no_command_does_anything() -> Result<()> {
    let cluster = cluster()?;
    let fs = friend(&cluster).await?;
    let home = tempfile::tempdir()?;
    let (tier, mount, local) = (home.path().join("tier"), home.path().join("mount"), home.path().join("local"));
    fs::create_dir(&tier)?;
    fs::create_dir(&mount)?;
    fs::write(&local, "theirs")?;
    let (tiers, source) = (PathBuf::from(format!("MEM:{}:16MB", tier.display())), local.to_string_lossy());
    let more =
        [("LARDER_WORKER_TIERS", tiers.as_path()), ("LARDER_FUSE_MOUNT_POINT", &mount), ("LARDER_STATE_FOLDER", &tier)];
    let commands: &[&[&str]] = &[
        &["worker"],
        &["fuse"],
        &["fs", "ls", "/"],
        &["fs", "cat", "/file"],
        &["fs", "cp", &source, "/theirs"],
        &["fs", "rm", "/file"],
        &["fs", "mkdir", "/directory"],
        &["fs", "chmod", "777", "/file"],
        &["fs", "mount", "/other", &source],
        &["fs", "load", "/"],
        &["fsadmin", "report"],
        &["fsadmin", "unknown", "ls"],
        &["job", "ls"],
    ];
    for (token, said) in STRANGERS {
        for arguments in commands {
            let output = run(&cluster, token, &more, arguments)?;
            let errors = String::from_utf8_lossy(&output.stderr);
            let answered = String::from_utf8_lossy(&output.stdout);
            ensure!(!output.status.success(), "{arguments:?} with {token:?} succeeded: {answered}");
            ensure!(errors.contains(said) && errors.contains("security.token"), "{arguments:?}, {token:?}: {errors}");
            ensure!(!answered.contains("content") && !answered.contains("file"), "{arguments:?}: {answered}");
        }
    }
    let report = fs.report().await?;
    ensure!(report.workers.len() == 1, "a worker without the token has registered: {report:?}");
    ensure!(fs.read("/file").await? == "content" && fs.status("/theirs").await.is_err());
    ensure!(fs.status("/directory").await.is_err() && fs.status("/other").await.is_err());
    for arguments in [&["fs", "ls", "/"][..], &["fs", "cat", "/file"], &["fsadmin", "report"]] {
        let output = run(&cluster, Some(SECRET), &more, arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The calls of all services, as the protocol's files name them.
fn calls() -> Result<Vec<String>> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
    let mut calls = Vec::new();
    for file in fs::read_dir(files)? {
        let text = fs::read_to_string(file?.path())?;
        let mut service = "";
        for line in text.lines().map(str::trim) {
            let word = |prefix: &str| Some(line.strip_prefix(prefix)?.split(['(', ' ']).next().unwrap_or_default());
            service = word("service ").unwrap_or(service);
            calls.extend(word("rpc ").map(|call| format!("/larder.v1.{service}/{call}")));
        }
    }
    ensure!(calls.len() > 20, "the services were not found");
    Ok(calls)
}

/// What a call with an empty message comes to; nothing where the answer does not come.
async fn call(port: u16, token: Option<&str>, path: &str) -> Result<Option<tonic::Status>> {
    let mut grpc = Grpc::new(channel(port, token)?);
    grpc.ready().await.map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
    let request = tonic::Request::new(stream::iter([v1::Empty {}]));
    let codec = ProstCodec::<v1::Empty, v1::Empty>::default();
    let answer = async {
        match grpc.streaming(request, PathAndQuery::try_from(path)?, codec).await {
            Err(status) => Ok(Some(status)),
            Ok(reply) => Ok(reply.into_inner().message().await.err()),
        }
    };
    // A stream that has begun may say nothing: that it has begun is an answer, too.
    tokio::time::timeout(Duration::from_secs(3), answer).await.unwrap_or(Ok(None))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_every_server_asks_for_the_token() -> Result<()> {
    let cluster = cluster()?;
    let report = friend(&cluster).await?.report().await?;
    let ports = [cluster.port(), report.workers[0].port];
    for path in calls()? {
        for (token, said) in STRANGERS {
            let mut served = 0;
            for port in ports {
                let status = call(port, token, &path).await?;
                let status = status.with_context(|| format!("{path} is answered to a stranger with {token:?}"))?;
                if status.code() == tonic::Code::Unimplemented {
                    continue;
                }
                served += 1;
                let error = from_status(&status);
                ensure!(error.kind() == ErrorKind::Denied && error.message().contains(said), "{path}: {status:?}");
            }
            ensure!(served == 1, "{path} is served by {served} of the servers");
        }
        for port in ports {
            let Some(status) = call(port, Some(SECRET), &path).await? else { continue };
            ensure!(!status.message().contains("cluster token"), "{path} is refused with the token: {status:?}");
        }
    }
    Ok(())
}

/// A grant that the master gives to who has the token.
async fn grant(cluster: &Cluster) -> Result<bytes::Bytes> {
    let mut client = v1::file_system_client::FileSystemClient::new(channel(cluster.port(), Some(SECRET))?);
    let open = v1::OpenRequest { path: "/file".into(), ..Default::default() };
    Ok(client.open(open).await?.into_inner().grant)
}

fn way(port: u16, token: Option<&str>) -> Result<Way> {
    let address = WorkerAddress {
        id: WorkerId([1; 16]),
        incarnation: Incarnation(1),
        host: "127.0.0.1".into(),
        port,
        sockets: vec![],
        locality: Locality::default(),
        features: FEATURE_DATA,
    };
    Ok(Way::to(&address, &greeting(token))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_protocol_asks_for_the_token_even_of_who_has_a_grant() -> Result<()> {
    let cluster = cluster()?;
    let port = friend(&cluster).await?.report().await?.workers[0].port;
    let grant = grant(&cluster).await?;
    let read = v1::ReadRequest { grant: grant.clone(), length: 7, ..Default::default() };
    let write = v1::WriteBegin { grant: grant.clone(), copies: Vec::new() };
    for (token, said) in STRANGERS {
        let way = way(port, token)?;
        for error in [way.read(read.clone()).await.map(drop), way.write(&write).await.map(drop)] {
            let error = error.err().context("it is answered to a stranger")?;
            ensure!(error.kind() == ErrorKind::Denied && error.message().contains(said), "{error}");
        }
    }
    let mut frames = way(port, Some(SECRET))?.read(read.clone()).await?;
    ensure!(frames.next().await?.context("bytes")?.data == "content");
    let heard = tokio::task::spawn_blocking(move || without_a_greeting(port, &read.encode_to_vec())).await??;
    ensure!(heard.is_empty(), "who does not greet hears {heard:?}");
    Ok(())
}

/// What comes back to who asks for bytes as the first thing that he says.
fn without_a_greeting(port: u16, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = [0; HEAD];
    head[0] = larder_proto::data::Kind::Read as u8;
    head[4..8].copy_from_slice(&u32::try_from(request.len())?.to_be_bytes());
    stream.write_all(&[&MAGIC[..], &head, request].concat())?;
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(heard),
    }
}

/// The socket that a worker has in the directory of its tier.
fn socket_in(directory: &Path) -> Result<PathBuf> {
    let sockets = fs::read_dir(directory)?.filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_type().ok()?.is_socket().then(|| entry.path())
    });
    sockets.into_iter().next().context("the worker has no socket there")
}

/// Asks a worker's socket as nobody in particular: what is answered, and how many descriptors come.
async fn ask(path: &Path, what: Ask) -> Result<(Option<Answer>, usize)> {
    let socket = Socket::connect(path)?;
    let hello = Ask::Hello(v1::ShortHello { format: FORMAT, ..Default::default() });
    for (tag, what) in [(1, hello), (2, what)] {
        socket.send(&v1::ShortRequest { tag, what: Some(what) }, &[]).await?;
        let reply = tokio::time::timeout(Duration::from_secs(10), socket.receive::<v1::ShortReply>()).await??;
        let reply = reply.context("the worker hung up")?;
        if tag == 2 {
            return Ok((reply.message.what, reply.descriptors.len()));
        }
    }
    unreachable!("the second is answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_s_socket_gives_nothing_without_a_grant_of_the_master() -> Result<()> {
    let cluster = cluster()?;
    let _ = friend(&cluster).await?.read("/file").await?;
    let socket = socket_in(&cluster.memory(0))?;
    let good = grant(&cluster).await?;
    let mut forged = good.to_vec();
    *forged.last_mut().context("a grant has bytes")? ^= 1;
    for grant in [Vec::new(), b"grant".to_vec(), forged] {
        let grant = bytes::Bytes::from(grant);
        let item = v1::ShortLeaseItem { grant: grant.clone(), fetch: true, ..Default::default() };
        let (answer, descriptors) = ask(&socket, Ask::Lease(v1::ShortLease { items: vec![item] })).await?;
        let Some(Answer::Leased(leased)) = answer else { anyhow::bail!("{answer:?}") };
        ensure!(descriptors == 0 && leased.answers.iter().all(|answer| answer.failure.is_some()), "{leased:?}");
        for edit in [false, true] {
            let write = v1::ShortWrite { grant: grant.clone(), reserve: 4096, edit, ..Default::default() };
            let (answer, descriptors) = ask(&socket, Ask::Write(write)).await?;
            ensure!(descriptors == 0 && matches!(answer, Some(Answer::Failure(_))), "{answer:?}");
        }
    }
    let item = v1::ShortLeaseItem { grant: good, fetch: true, ..Default::default() };
    let (_, descriptors) = ask(&socket, Ask::Lease(v1::ShortLease { items: vec![item] })).await?;
    ensure!(descriptors == 1, "with a grant the file's descriptor comes");
    Ok(())
}
