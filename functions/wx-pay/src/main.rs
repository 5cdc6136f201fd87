use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(wx_pay::function())
}
