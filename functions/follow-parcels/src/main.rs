use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(follow_parcels::function())
}
