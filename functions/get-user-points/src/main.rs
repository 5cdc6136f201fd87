use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(get_user_points::function())
}
