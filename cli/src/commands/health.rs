//! `larder health`: asks the servers of this machine or container how they are. The image's `HEALTHCHECK`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use larder_common::{Error, ErrorKind, settings::Role};

use crate::{
    command::Run,
    context::Context,
    exit::Exit,
    serving,
    web::{
        Report,
        announcement::{Place, ask, found},
        report,
    },
};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ask the servers of this machine or container whether they are well
#[derive(Args, Debug)]
pub(crate) struct Health {
    /// Ask whether they serve, and not only whether they live
    #[arg(long)]
    ready: bool,
    /// Print what they count, as /metrics does
    #[arg(long, conflicts_with = "ready")]
    metrics: bool,
    /// Only this one: master, worker, fuse or local
    #[arg(value_name = "ROLE")]
    role: Option<String>,
    /// Where their state is [default: that of the settings]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Run for Health {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (settings, _said_by_the_server) = context.settings(Some(Role::Client), Vec::new())?;
        let state = match &self.state {
            Some(state) => state.clone(),
            None => settings.state_folder(serving::is_root())?,
        };
        let mut places = found(&state)?;
        places.retain(|place| self.role.as_ref().is_none_or(|role| *role == place.role));
        if places.is_empty() {
            let error = Error::new(ErrorKind::Unavailable, "no server has announced itself here");
            return Err(error.at(state.as_os_str().as_encoded_bytes()).into());
        }
        if self.metrics {
            return metrics(context, &places);
        }
        let path = if self.ready { "/ready" } else { "/health" };
        let mut all_well = true;
        for place in &places {
            let report = asked(place, path, context.timeout().unwrap_or(PATIENCE));
            all_well &= report.ok;
            said(context, &report)?;
        }
        Ok(if all_well { Exit::Done } else { Exit::Failed })
    }
}

fn metrics(context: &Context, places: &[Place]) -> anyhow::Result<Exit> {
    for place in places {
        let (_, text) = ask(place.address, "/metrics", context.timeout().unwrap_or(PATIENCE))?;
        context.output.bytes(&text)?;
    }
    Ok(Exit::Done)
}

/// What a server says of itself; one that does not answer, or is not the one that was announced, is not well.
fn asked(place: &Place, path: &str, within: Duration) -> Report {
    let answer = ask(place.address, path, within).and_then(|(_, body)| report(&body));
    let not_well = |reason: String| Report {
        role: place.role.clone(),
        instance: place.instance.clone(),
        version: String::new(),
        ok: false,
        reason: Some(reason),
    };
    match answer {
        Ok(report) if report.instance == place.instance => report,
        Ok(other) => not_well(format!("{} is another {}; this one has ended", place.address, other.role)),
        Err(error) => not_well(error.message().to_owned()),
    }
}

fn said(context: &Context, report: &Report) -> anyhow::Result<()> {
    if context.output.json {
        return context.output.object(report);
    }
    let state = if report.ok { "well" } else { "not well" };
    match &report.reason {
        Some(reason) => context.output.line(format!("{}: {state}: {reason}", report.role)),
        None => context.output.line(format!("{}: {state}", report.role)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_not_well() {
        let place = Place { role: "master".into(), address: "127.0.0.1:1".parse().unwrap(), instance: "a".into() };
        let report = asked(&place, "/health", Duration::from_secs(1));
        assert!(!report.ok && report.reason.unwrap().contains("does not answer"));
    }
}
