//! The commands that only print a text: completions for shells, the manual page, and the schemas of what is written.

use argh::{ArgsInfo, FromArgs};
use argh_complete::{Generator, bash, fish, zsh};

use super::TopLevel;
use crate::event::schema;

/// Prints what a shell needs to complete our command lines.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "completions")]
pub struct Completions {
    #[argh(subcommand)]
    pub shell: Shell,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Shell {
    Bash(Bash),
    Zsh(Zsh),
    Fish(Fish),
}

/// Prints the completions for bash.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "bash")]
pub struct Bash {}

/// Prints the completions for zsh.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "zsh")]
pub struct Zsh {}

/// Prints the completions for fish.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "fish")]
pub struct Fish {}

/// Prints the manual page.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "man")]
pub struct Man {}

/// Prints the JSON Schema of what is written.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "schema")]
pub struct Schema {
    #[argh(subcommand)]
    pub of: Written,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Written {
    Event(Event),
    Osprey(Osprey),
    Ozone(Ozone),
}

/// Prints the JSON Schema of an event of a relay, PDS or Tap.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "event")]
pub struct Event {}

/// Prints the JSON Schema of an event in Osprey's envelope.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "osprey")]
pub struct Osprey {}

/// Prints the JSON Schema of a moderation event.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "ozone")]
pub struct Ozone {}

pub(super) fn schema(f: &Schema) -> String {
    schema::bundle(match f.of {
        Written::Event(_) => "event",
        Written::Osprey(_) => "osprey",
        Written::Ozone(_) => "ozone",
    })
}

pub(super) fn completions(f: &Completions) -> String {
    let all = TopLevel::get_args_info();
    match f.shell {
        Shell::Bash(_) => bash::Bash::generate("atkafka", &all),
        Shell::Zsh(_) => zsh::Zsh::generate("atkafka", &all),
        // `-x` came with fish 4; Debian 12 has 3.6, and the old name works in both.
        Shell::Fish(_) => fish::Fish::generate("atkafka", &all).replace("commandline -x", "commandline -o"),
    }
}
