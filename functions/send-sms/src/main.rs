use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(send_sms::function())
}
