"""Builds cr-sqlite 0.16.3 as a loadable extension from the sources in its npm package; prints the path.

    python3 reference.py DIRECTORY

Needed only to record expectations anew (`interop.py record`). The published build wants a compiler of 2023; three things
are changed for one of today: the bindings that the package carries are used instead of generated, its crates become
ordinary ones (no own panic handler), and a string that was passed to C without its end gets one.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

PACKAGE = "@vlcn.io/crsqlite@0.16.3"
FEATURES = re.compile(r"^#!\[(no_std|feature\((core_intrinsics|lang_items|concat_idents)\))\]$", re.M)


def edit(path, change):
    path.write_text(change(path.read_text("utf-8")), "utf-8")


def patch(root):
    rs = root / "rs"
    capi = rs / "sqlite-rs-embedded" / "sqlite3_capi"
    bindings = next((rs / "bundle_static").glob("target/release/build/*/out/bindings.rs"))
    shutil.copy(bindings, capi / "bindings.rs")
    for name in ("bundle", "bundle_static"):
        shutil.rmtree(rs / name / "target")
    for path in root.rglob("rust-toolchain.toml"):
        path.unlink()
    (capi / "build.rs").write_text(
        'fn main() { let out = std::env::var("OUT_DIR").unwrap(); '
        'std::fs::copy("bindings.rs", format!("{out}/bindings.rs")).unwrap(); }\n'
    )
    edit(capi / "Cargo.toml", lambda text: re.sub(r"\[build-dependencies\]\n.*\n", "", text))
    edit(capi / "src" / "lib.rs", lambda text: text.replace("#![feature(concat_idents)]", ""))
    edit(rs / "bundle_static" / "src" / "lib.rs", lambda text: text.replace("#![no_std]", ""))

    def bundle(text):
        begin = text.index("// This must be our panic handler")
        end = text.index('#[no_mangle]\npub extern "C" fn sqlite3_crsqlrustbundle_init')
        return FEATURES.sub("", text[:begin] + text[end:])

    edit(rs / "bundle" / "src" / "lib.rs", bundle)
    edit(rs / "core" / "src" / "lib.rs", lambda text: text.replace('("main", ', '("main\\0", '))


def build(root):
    cargo = ["cargo", "build", "--release", "--features", "loadable_extension"]
    environment = {"RUSTC_BOOTSTRAP": "1", "CRSQLITE_COMMIT_SHA": "0" * 40}
    subprocess.run(cargo, check=True, cwd=root / "rs" / "bundle_static", env=os.environ | environment)
    library = root / "rs/bundle_static/target/release/libcrsql_bundle_static.a"
    sources = [root / "src" / name for name in ("crsqlite.c", "changes-vtab.c", "ext-data.c")]
    out = root / "crsqlite.so"
    flags = ["-O2", "-std=c99", "-fPIC", "-shared", "-w", f"-I{root / 'src'}", f"-I{root / 'src/sqlite'}"]
    subprocess.run(["cc", *flags, *sources, library, "-lm", "-lpthread", "-ldl", "-o", out], check=True)
    return out


def main():
    directory = pathlib.Path(sys.argv[1]).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["npm", "pack", "--silent", PACKAGE], check=True, cwd=directory, stdout=subprocess.DEVNULL)
    subprocess.run(["tar", "xzf", next(directory.glob("*.tgz"))], check=True, cwd=directory)
    root = directory / "package"
    patch(root)
    print(build(root))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
