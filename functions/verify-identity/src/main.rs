use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(verify_identity::function())
}
