//! `jinlu` as the fault tests run it: the same program, with one crash point armed.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "the test that starts this program says where it stops")]
    if let Ok(name) = std::env::var("JINLU_CRASHPOINT") {
        store::crashpoint::arm(&name);
    }
    jinlu::cli::main()
}
