//! `stat`: the status of paths that the client does not remember, asked by many tasks at the same time, against calls
//! that do nothing over a connection of the same kind.

use std::{sync::Arc, time::Instant};

use larder_common::{Error, Result};
use larder_proto::{
    from_status,
    v1::{Empty, file_system_client::FileSystemClient},
};

use crate::{
    bench::Bench,
    cluster::connect,
    content::Sequence,
    home::Home,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    statistics::Latencies,
};

pub(crate) const BENCH: Bench = Bench {
    name: "stat",
    measures: "status by path, nothing cached, 16 clients",
    baseline: "empty gRPC calls, 16 clients",
    asked: Asked::Ratio(0.7),
    needs_root: false,
    on_existing: true,
    run,
};

const CLIENTS: usize = 16;
const PER_DIRECTORY: usize = 100;

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let home = Home::with_names(lab)?;
    let paths = put(lab, &home)?;
    let each = lab.pick(4_000, 250);
    let fs = connect(lab, home.door().config(&[("user.metadata.cache.max", "0")])?)?;
    let channel = home.door().channel()?;
    let mut measured = || {
        let (took, latencies) = lab.at_once(CLIENTS, |client| {
            let (fs, paths) = (fs.clone(), Arc::clone(&paths));
            let mut choice = Sequence::new(client as u64);
            async move {
                let mut latencies = Latencies::with_room(each);
                for _ in 0..each {
                    let path = &paths[choice.below(paths.len() as u64) as usize];
                    let start = Instant::now();
                    fs.status(path).await?;
                    latencies.add(start.elapsed());
                }
                Ok(latencies)
            }
        })?;
        Ok(Round::of(latencies.len() as f64, took).with(latencies))
    };
    let mut baseline = || {
        let (took, latencies) = lab.at_once(CLIENTS, |_| {
            let mut client = FileSystemClient::new(channel.clone());
            async move {
                let mut latencies = Latencies::with_room(each);
                for _ in 0..each {
                    let start = Instant::now();
                    client.ping(Empty {}).await.map_err(|status| failed(&status))?;
                    latencies.add(start.elapsed());
                }
                Ok(latencies)
            }
        })?;
        Ok(Round::of(latencies.len() as f64, took).with(latencies))
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    Ok(vec![Outcome::of(bench.name, Unit::Operations, bench.asked, &series, 0)])
}

fn failed(status: &tonic::Status) -> Error {
    from_status(status).context("an empty call")
}

/// Empty files, of which the master knows when this returns.
fn put(lab: &Lab<'_>, home: &Home<'_>) -> Result<Arc<Vec<String>>> {
    lab.progress("stat: making files");
    let names: Vec<_> = (0..lab.pick(10_000, 500)).map(|n| format!("d{:03}/f{n:05}", n / PER_DIRECTORY)).collect();
    names.iter().try_for_each(|name| {
        lab.check()?;
        home.put(name, 0, 0)
    })?;
    let paths: Vec<_> = names.iter().map(|name| home.path(name)).collect();
    lab.wait(async {
        for path in &paths {
            home.fs().status(path).await?;
        }
        Ok(())
    })?;
    Ok(Arc::new(paths))
}
