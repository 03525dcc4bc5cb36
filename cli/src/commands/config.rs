//! `larder config`: the settings as this process would see them, each with its source; and their reference.

use clap::{Args, Subcommand};
use larder_common::settings::{Origin, Shown, reference};
use serde::Serialize;

use crate::{command::Run, context::Context, exit::Exit};

/// Show the settings, or their reference
#[derive(Args, Debug)]
pub(crate) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print each setting with its value and where that comes from
    Show {
        /// Only settings that somebody gave
        #[arg(long)]
        given: bool,
        /// Only settings whose name begins with this
        #[arg(value_name = "NAME")]
        prefix: Option<String>,
    },
    /// Print the reference of all settings, as Markdown
    Docs,
}

/// A setting for programs.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    value: Option<&'a str>,
    source: String,
    default: Option<&'a str>,
    secret: bool,
}

impl<'a> Row<'a> {
    fn of(shown: &'a Shown) -> Self {
        let text = |text: &'a str| (!text.is_empty()).then_some(text);
        Row {
            name: &shown.name,
            value: text(&shown.value),
            source: shown.origin.to_string(),
            default: text(shown.setting.default),
            secret: shown.setting.secret,
        }
    }
}

impl Run for Config {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.what {
            What::Show { given, prefix } => show(context, given, prefix.as_deref().unwrap_or_default()),
            What::Docs => context.output.bytes(reference::markdown().as_bytes()).map(|()| Exit::Done),
        }
    }
}

fn show(context: &Context, given: bool, prefix: &str) -> anyhow::Result<Exit> {
    let (settings, warnings) = context.settings(None, Vec::new())?;
    warnings.iter().for_each(|warning| context.output.warning(warning));
    let mut shown = settings.shown();
    shown.retain(|shown| shown.name.starts_with(prefix) && !(given && shown.origin == Origin::Default));
    match context.output.json {
        true => shown.iter().try_for_each(|shown| context.output.object(&Row::of(shown)))?,
        false => context.output.bytes(table(&shown).as_bytes())?,
    }
    Ok(Exit::Done)
}

/// Columns of name, value and source; `-` where there is no value.
fn table(shown: &[Shown]) -> String {
    let value = |shown: &Shown| if shown.value.is_empty() { "-".to_owned() } else { shown.value.clone() };
    let rows: Vec<_> = shown.iter().map(|shown| (&shown.name, value(shown), shown.origin.to_string())).collect();
    let names = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let values = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0).min(32);
    rows.iter().map(|(name, value, source)| format!("{name:names$}  {value:values$}  {source}\n")).collect()
}
