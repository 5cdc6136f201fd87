use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(lottery_draw::function())
}
