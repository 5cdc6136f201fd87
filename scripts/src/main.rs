//! The `jinlu` command. Everything is in the library, so that tests can carry the same command.

use std::process::ExitCode;

fn main() -> ExitCode {
    jinlu::cli::main()
}
