//! The commands that only print a text: completions for shells, and the manual page.

use argh::{ArgsInfo, FromArgs};
use argh_complete::{Generator, bash, fish, zsh};

use super::TopLevel;

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

pub(super) fn completions(f: &Completions) -> String {
    let all = TopLevel::get_args_info();
    match f.shell {
        Shell::Bash(_) => bash::Bash::generate("atkafka", &all),
        Shell::Zsh(_) => zsh::Zsh::generate("atkafka", &all),
        // `-x` came with fish 4; Debian 12 has 3.6, and the old name works in both.
        Shell::Fish(_) => fish::Fish::generate("atkafka", &all).replace("commandline -x", "commandline -o"),
    }
}
