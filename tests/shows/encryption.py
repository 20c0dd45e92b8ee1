# SPDX-License-Identifier: Apache-2.0
"""The encryption rows of 04-2: LUKS volumes and encrypted qcow2 images made by us, by Debian's qemu-img and by cryptsetup,
each read, written, checked, described and their key slots changed by the others."""
import json
import os
import random
import subprocess

from show import Failed, say, skip

SIZE = 4 << 20
QEMU = ["qemu-img"]
LUKS = ("cipher-alg=aes-256", "cipher-alg=aes-128,hash-alg=sha1", "cipher-alg=aes-256,cipher-mode=cbc,hash-alg=sha512",
        "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256", "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain",
        "cipher-alg=aes-256,cipher-mode=ctr", "cipher-alg=aes-256,cipher-mode=ecb", "hash-alg=ripemd160",
        "cipher-alg=serpent-256", "cipher-alg=serpent-256,cipher-mode=cbc,ivgen-alg=essiv", "cipher-alg=serpent-192", "cipher-alg=aes-192", "cipher-alg=serpent-128,cipher-mode=ctr", "cipher-alg=twofish-256",
        "cipher-alg=twofish-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=md5", "cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=plain")
QCOW2 = ("encrypt.format=luks", "encrypt.format=luks,compat=0.10", "encrypt.format=aes", "encryption=on,compat=0.10",
         "encrypt.format=luks,cluster_size=512", "encrypt.format=luks,cluster_size=2M,lazy_refcounts=on", "encrypt.format=aes,cluster_size=4k,refcount_bits=64",
         "encrypt.format=luks,extended_l2=on,cluster_size=16k", "encrypt.format=aes,extended_l2=on", "encrypt.format=luks,data_file=FOLDER/data",
         "encrypt.format=luks,preallocation=metadata", "encrypt.format=luks,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv")
CRYPTSETUP = (["--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256"], ["--cipher", "aes-cbc-essiv:sha256", "--key-size", "256", "--hash", "sha1"],
              ["--cipher", "aes-cbc-plain64", "--key-size", "128", "--hash", "sha512"])
# cryptsetup knows no such modes, and asks the kernel for what OpenSSL has not (other ciphers than AES, AES-192 in XTS mode), which need not have it.
NOT_CRYPTSETUP = ("ctr", "ecb", "serpent", "twofish", "cast5", "aes-192")


class Judge:
    def __init__(self, folder, ours, seed):
        self.folder, self.ours, self.random, self.commands = folder, ours, random.Random(seed), 0
        self.content = bytearray(SIZE)

    def run(self, command, expect=0, tries=1, text=None):
        self.commands += 1
        for _ in range(tries):
            got = subprocess.run([str(c) for c in command], capture_output=True, check=False, input=text)
            if got.returncode == expect:
                return got.stdout.decode()
        raise Failed(f"{' '.join(map(str, command))}: status {got.returncode}: {(got.stdout + got.stderr).decode(errors='replace')[-600:]}")

    def secrets(self):
        return ["--object", f"secret,id=a,file={self.folder}/a", "--object", f"secret,id=b,file={self.folder}/b"]

    def create(self, tool, kind, options, image):
        # QEMU's calibration gives up at random on a busy machine when asked for a short time.
        slow = [] if "aes" in options.split("format=")[-1].split(",")[0] or "encryption=on" in options else [("encrypt." if kind == "qcow2" else "") + "iter-time=20"]
        key = ("encrypt." if kind == "qcow2" else "") + "key-secret=a"
        self.run(tool + ["create", "-q", "-f", kind, *self.secrets(), "-o", ",".join([key, options.replace("FOLDER", str(self.folder)), *slow]), image, SIZE], tries=30)

    def compare(self, spec):
        raw = self.folder / "expected.raw"
        raw.write_bytes(self.content)
        for tool in (QEMU, self.ours):
            self.run(tool + ["compare", *self.secrets(), "--image-opts", spec, f"driver=raw,file.filename={raw}"])
            if spec.startswith("driver=qcow2"):
                self.run(tool + ["check", *self.secrets(), "--image-opts", spec])

    def write(self, spec, ours):
        """Random data at random places, by one side."""
        for _ in range(4):
            length = 512 * self.random.choice((1, 3, 8, 130, 1000))
            offset = self.random.randrange((SIZE - length) // 512) * 512
            if not ours:
                value = self.random.randrange(1, 256)
                self.run(["qemu-io", *self.secrets(), "--image-opts", "-c", f"write -P {value} {offset} {length}", spec])
                self.content[offset:offset + length] = bytes((value,)) * length
                continue
            # Whole contents over what is there: every cluster is overwritten or allocated.
            self.content[offset:offset + length] = self.random.randbytes(length)
            raw = self.folder / "new.raw"
            raw.write_bytes(self.content)
            self.run(self.ours + ["convert", "-n", *self.secrets(), "--image-opts", "--target-image-opts", f"driver=raw,file.filename={raw}", spec])

    def info(self, image):
        told = []
        for tool in (QEMU, self.ours):
            one = json.loads(self.run(tool + ["info", "--output=json", image]))
            for volatile in ("actual-size", "children"):
                one.pop(volatile, None)
            told.append(json.dumps(one))
        if told[0] != told[1]:
            raise Failed(f"info differs: {told[0]} and {told[1]}")

    def wrong_password(self, spec):
        wrong = spec.replace("key-secret=a", "key-secret=b")
        got = subprocess.run(self.ours + ["map"] + self.secrets() + ["--image-opts", wrong], capture_output=True, text=True, check=False)
        if got.returncode != 1 or not got.stderr.endswith("Invalid password, cannot unlock any keyslot\n") or got.stderr.count("\n") != 1:
            raise Failed(f"a wrong password: status {got.returncode}: {got.stderr}")

    def slots(self, spec, prefix):
        """A second password by one side, the first erased by the other, and back; whose turn it is goes by the kind of image."""
        amend = lambda tool, key, *words: self.run(tool + ["amend", *self.secrets(), "--image-opts", spec.replace("key-secret=a", f"key-secret={key}"), "-o",
                                                           ",".join(prefix + w for w in words)], tries=30)
        for first, second in ((QEMU, self.ours) if prefix else (self.ours, QEMU),):
            amend(first, "a", "state=active", "new-secret=b", "keyslot=6", "iter-time=20")
            for tool in (QEMU, self.ours):
                self.run(tool + ["map", "--output=json", *self.secrets(), "--image-opts", spec.replace("key-secret=a", "key-secret=b")])
            amend(second, "b", "state=inactive", "old-secret=a")
            for tool in (QEMU, self.ours):
                self.run(tool + ["map", *self.secrets(), "--image-opts", spec], expect=1)
            amend(second, "b", "state=active", "new-secret=a", "iter-time=20")
            amend(first, "a", "state=inactive", "keyslot=6")
        got = subprocess.run(self.ours + ["amend"] + self.secrets() + ["--image-opts", spec, "-o", f"{prefix}state=inactive,{prefix}old-secret=a"], capture_output=True, text=True, check=False)
        if got.returncode != 1 or "irreversibly" not in got.stderr:
            raise Failed("the last key slot could be erased")

    def cryptsetup(self, image):
        self.run(["cryptsetup", "open", "--test-passphrase", "--key-file", self.folder / "a", image])
        self.run(["cryptsetup", "open", "--test-passphrase", "--key-file", self.folder / "b", image], expect=2)
        if "Key Slot 0: ENABLED" not in self.run(["cryptsetup", "luksDump", image]):
            raise Failed("cryptsetup luksDump does not see the key slot")


def rows(folder, ours, seed, limit):
    """`limit`: of each kind, spread over it."""
    luks, cryptsetup, qcow2 = (list(enumerate(kind))[::max(1, -(-len(kind) // limit))] for kind in (LUKS, CRYPTSETUP, QCOW2))
    try:
        subprocess.run(["cryptsetup", "--version"], capture_output=True, check=True)
    except FileNotFoundError:
        skip("cryptsetup (package cryptsetup-bin) is not installed")
    judge = Judge(folder, ours, seed)
    (folder / "a").write_bytes(b"first password")
    (folder / "b").write_bytes(b"second")
    count = 0
    for number, options in luks:
        say(f"luks {options}")
        # QEMU's calibration takes seconds of a processor, so it makes some of them; it judges all.
        for maker in (QEMU, ours) if number == 3 else (ours,):
            image = folder / "image.luks"
            judge.content[:] = bytes(SIZE)
            spec = f"driver=luks,key-secret=a,file.filename={image}"
            judge.create(maker, "luks", options, image)
            judge.run(ours + ["convert", "-n", *judge.secrets(), "--image-opts", "--target-image-opts", "-S", "0", f"driver=raw,file.filename={zeroes(folder)}", spec])
            judge.compare(spec)
            for by_us in (True, False):
                judge.write(spec, by_us)
                judge.compare(spec)
            judge.info(image)
            judge.wrong_password(spec)
            if not any(word in options for word in NOT_CRYPTSETUP):
                judge.cryptsetup(image)
            if number == 0 and maker is ours:
                judge.slots(spec, "")
            image.unlink()
            count += 1
    # cryptsetup's own volumes, as large as a header and the disk.
    for _, words in cryptsetup:
        say(f"cryptsetup {' '.join(words)}")
        image = folder / "image.luks"
        with open(image, "wb") as file:
            file.truncate((4 << 20) + SIZE)
        judge.run(["cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", *words, "--key-file", folder / "a", image])
        size = json.loads(judge.run(ours + ["info", "--output=json", image]))["virtual-size"]
        with open(image, "ab") as file:
            file.truncate(os.path.getsize(image) - size + SIZE)
        spec = f"driver=luks,key-secret=a,file.filename={image}"
        judge.content[:] = bytes(SIZE)
        judge.run(ours + ["convert", "-n", *judge.secrets(), "--image-opts", "--target-image-opts", "-S", "0", f"driver=raw,file.filename={zeroes(folder)}", spec])
        judge.write(spec, True)
        judge.compare(spec)
        judge.info(image)
        judge.cryptsetup(image)
        judge.run(["cryptsetup", "luksAddKey", "-q", "--key-file", folder / "a", "--pbkdf-force-iterations", "1000", image, folder / "b"])
        judge.compare(spec.replace("key-secret=a", "key-secret=b"))
        image.unlink()
        count += 1
    for number, options in qcow2:
        say(f"qcow2 {options}")
        for maker in (QEMU, ours) if "luks" not in options or number == 7 else (ours,):
            image = folder / "image.qcow2"
            judge.content[:] = bytes(SIZE)
            spec = f"driver=qcow2,encrypt.key-secret=a,file.filename={image}"
            judge.create(maker, "qcow2", options, image)
            # QEMU's preallocated encrypted clusters decrypt to noise.
            if maker is ours or "prealloc" not in options:
                judge.compare(spec)
            else:
                judge.write(spec, True)
            for by_us in (maker is ours, maker is not ours):
                judge.write(spec, by_us)
                judge.compare(spec)
            judge.info(image)
            if "luks" in options:
                judge.wrong_password(spec)
            if "data_file" not in options:
                before = bytes(judge.content)
                judge.run(ours + ["snapshot", "-c", "s", image])
                judge.write(spec, True)
                judge.write(spec, False)
                judge.compare(spec)
                judge.run(QEMU + ["snapshot", *judge.secrets(), "--image-opts", "-a", "s", spec])
                judge.content[:] = before
                judge.compare(spec)
                judge.run(ours + ["snapshot", "-d", "s", image])
                judge.compare(spec)
            if number == 0 and maker is ours:
                judge.slots(spec, "encrypt.")
            # An encrypted overlay over it; committed by each side.
            if "lazy" not in options and "0.10" not in options and "data_file" not in options:
                over = folder / "over.qcow2"
                top = f"driver=qcow2,encrypt.key-secret=b,file.filename={over},backing.driver=qcow2,backing.file.filename={image},backing.encrypt.key-secret=a"
                judge.run(ours + ["create", "-q", "-f", "qcow2", *judge.secrets(), "-o", "encrypt.format=luks,encrypt.key-secret=b,encrypt.iter-time=10", "-b", image, "-F", "qcow2", over])
                judge.write(top, False)
                judge.compare(top)
                judge.run((ours if number % 2 else QEMU) + ["commit", "-q", *judge.secrets(), "--image-opts", top])
                judge.compare(spec)
                over.unlink()
            for left in folder.glob("image.qcow2"):
                left.unlink()
            (folder / "data").unlink(missing_ok=True)
            count += 1
    say(f"{count} encrypted images (by us, qemu-img, cryptsetup), {judge.commands} commands: read, written, checked, described and key slots changed by the others")
    return count


def zeroes(folder):
    path = folder / "zeroes.raw"
    path.write_bytes(bytes(SIZE))
    return path
