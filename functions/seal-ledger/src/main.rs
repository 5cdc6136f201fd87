use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(seal_ledger::function())
}
