use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(coupon_admin::function())
}
