use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(reconcile_bill::function())
}
