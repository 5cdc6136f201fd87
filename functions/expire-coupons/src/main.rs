use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(expire_coupons::function())
}
