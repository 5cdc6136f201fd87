use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(close_expired_orders::function())
}
