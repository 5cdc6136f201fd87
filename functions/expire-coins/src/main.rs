use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(expire_coins::function())
}
