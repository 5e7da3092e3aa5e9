//! The gRPC service of `grpc.rs`, described without a `.proto` file: that would need `protoc`.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let method = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(input)
            .output_type(output)
            .codec_path("tonic_prost::ProstCodec")
            .build()
    };
    let words = Service::builder()
        .name("Words")
        .package("words")
        .method(method(
            "learn",
            "Learn",
            "crate::Lesson",
            "crate::Knowledge",
        ))
        .method(method(
            "complete",
            "Complete",
            "crate::Prefix",
            "crate::Completions",
        ))
        .build();
    Builder::new().compile(&[words]);
}
