use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(deliver_outbox::function())
}
