use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(lottery_admin::function())
}
