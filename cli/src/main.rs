//! The one binary: `larder`. Parses the command line, runs one command, ends with its exit code. What a command does
//! lives in its file under `commands`; what all commands share (settings, output, logs, errors) beside this file.

mod arguments;
mod cluster;
mod command;
mod commands;
mod context;
mod exit;
mod failure;
mod foreign;
mod mount;
mod output;
mod privileges;
mod serving;
mod telemetry;
mod web;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    command::main(std::env::args_os().collect(), std::env::vars_os().collect()).into()
}
