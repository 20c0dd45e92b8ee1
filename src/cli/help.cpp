// SPDX-License-Identifier: Apache-2.0
#include "cli/help.h"

#include <cstdio>
#include <cstring>

namespace vireo::cli {
namespace {

constexpr char kRun[] = R"(vireo run: start a virtual machine; its serial console is this terminal
  --kernel FILE          Linux bzImage, ELF (PVH, vmlinux) or multiboot kernel
  --firmware seabios|ovmf|FILE                      what boots the disk, or by UEFI the kernel
  --initrd FILE          initial RAM disk           --append TEXT  kernel command line
  --memory SIZE[,...]    512M by default            --cpus N       1 by default
  --cpu host|max|NAME    what the guest's CPU has   --disk FILE[,...]  a virtio disk; may be repeated
  --net user|tap|none    a virtio network card; may be repeated
  --numa cpus=LIST,memory=SIZE                      a node of the guest; may be repeated
  --serial stdio|file:PATH|null|pty                 first serial port
  --console stdio|file:PATH|null|pty                a virtio console as well
  --rng                  a virtio entropy source    --vga std      a screen, for vireo ctl screen
  --board q35|microvm    --accel auto|kvm|soft      --cpu-affinity LIST
  --no-reboot            end when the guest resets
  --name TEXT            for vireo ctl              --qmp unix:PATH  a socket that speaks QMP
  --config FILE          the same options as `name = value` lines
  --boot-protocol auto|linux64|linux32|pvh|multiboot
  --debug-exit [PORT]    --testdev                  for test kernels
  --perf-map             --jitdump FOLDER           names of translated code for perf
  --code-cache FOLDER    keeps translated code for the next machine; --accel soft
On a terminal: Ctrl-A x ends, Ctrl-A c opens a prompt, Ctrl-A h helps.
More: vireo run --help memory|cpu|disk|net|serial|accel|board|firmware|vga|config|qmp|perf|code-cache|exit
)";

struct Topic {
  const char* name;
  const char* text;
};
constexpr Topic kTopics[] = {
    {"cpu", R"(--cpu host|max|NAME[,vendor=NAME][,physical-bits=N][,+FEATURE][,-FEATURE]...
  host                 what the hypervisor offers but pku and pks: the default. On the software hypervisor
                       guest programs run on the bare CPU only without protection keys
  max                  all that the hypervisor offers
  NAME                 the same on every host that can have it: x86-64-v1 to v4 (of the host's vendor), Nehalem
                       Westmere SandyBridge IvyBridge Haswell-noTSX Broadwell-noTSX Skylake-Client-noTSX-IBRS
                       Skylake-Server-noTSX-IBRS Cascadelake-Server-noTSX Icelake-Server-noTSX EPYC EPYC-Rome EPYC-Milan
  vendor=NAME          GenuineIntel, AuthenticAMD: what the CPUs do differently follows it
  physical-bits=N      36 up to the host's
  +FEATURE, -FEATURE   with it (if offered) or without, by QEMU's names: fsgsbase invpcid la57 pcid pks pku
                       rdrand rdtscp smap smep umip avx2 avx512f aes ...
)"},
    {"memory", R"(--memory SIZE[,backing=anonymous|memfd|hugetlb][,file=PATH][,hugetlb=2M|1G][,prealloc][,mergeable][,thp=off][,numa=N]
  SIZE                 512M, 2G; without a letter MiB
  backing=memfd        shared memory, for other processes to map; the default on the software
                       hypervisor, which runs guest programs in processes of their own from it
  file=PATH            a file or a device; it is made and grown when it is not there
  hugetlb[=2M|1G]      pages of the host's huge page pool
  prealloc             take all pages at the start
  mergeable            let the host's KSM merge equal pages: anonymous memory, without transparent huge pages
  thp=off              no transparent huge pages
  numa=N               bind the memory to host node N
--numa [cpus=LIST,]...[memory=SIZE]
  one node of the guest's memory, told by ACPI (SRAT, SLIT). LIST is a range (0-3) or one vCPU; cpus= may be repeated. Every
  vCPU must be in a node, and the nodes' memory, in turn from address 0, be all of --memory
)"},
    {"disk", R"(--disk FILE[,readonly][,serial=TEXT][,cache=MODE][,queues=N][,format=raw|qcow2|luks]
              [,key-file=FILE][,id=NAME][,bps=N][,iops=N]...[,power-cut-test=SEED]
  readonly             the guest cannot write; several machines may share the file
  serial=TEXT          at most 20 bytes, seen by the guest
  cache=writeback      through the host's page cache (default); none: around it; writethrough, directsync: every
                       write is on the medium when it completes; unsafe: flushes are ignored
  queues=N             request queues (default: one a vCPU)
  format=qcow2         an image with a format of its own, and its backing files. Without format= a file whose name ends
                       in .qcow2 is looked at, any other is raw; one that begins like qcow2 then must be told
  key-file=FILE        the password of a LUKS volume or of an encrypted qcow2 image (and of its backing files): all of the
                       file's bytes, a final newline too
  power-cut-test=SEED  for tests: writes stay in memory until the guest flushes, except for sectors picked by SEED; so SIGKILL
                       leaves the file as a power cut would leave a disk
  id=NAME              what vireo ctl and QMP call it; disk0, disk1 ... without
  bps=N, iops=N        bytes and requests a second at most; bps-rd, bps-wr, iops-rd, iops-wr for one direction;
                       bps-max=N, bps-max-length=SECONDS and the like for bursts; iops-size=N: larger requests count more
  A comma in FILE is written twice.
--disk vhost-user=SOCKET[,queues=N]
  a disk that another process has (qemu-storage-daemon, SPDK): it maps the guest's memory and serves its requests. When it goes away
  the disk stands still until one listens at SOCKET again
)"},
    {"net", R"(--net user[,forward=[tcp:|udp:][ADDRESS:]HOSTPORT:GUESTPORT]...[,tftp=DIR][,bootfile=FILE][,mac=...][,rom=FILE]
  a network of its own behind this process: no rights are needed; the guest reaches out by NAT, and in by `forward`
  tftp=DIR       the guest may read the folder by TFTP from 10.0.2.2
  bootfile=FILE  what DHCP tells a machine that boots from the network: a name in that folder, or an address. With firmware
                 the card has iPXE then (Debian's package ipxe-qemu), and SeaBIOS boots by it where no disk does; UEFI has its own
  rom=FILE       the card's option ROM (q35)
--net tap,ifname=NAME[,mac=...][,rom=FILE]
  an existing tap interface
--net none
)"},
    {"serial", R"(--serial stdio|file:PATH|null|pty
  stdio    standard input and output, also when they are pipes. On a terminal: Ctrl-A x ends the machine, Ctrl-A c opens a
           prompt (info, quit, reset, poweroff), Ctrl-A h lists the keys, Ctrl-A Ctrl-A sends Ctrl-A
  file:    output is written to the file
  pty      a new pseudoterminal; its name is told on stderr
--console takes the same words, for a virtio console (hvc0); on a terminal it is as large as the window, and follows it
)"},
    {"accel", R"(--accel auto|kvm|soft
  kvm      the host kernel's /dev/kvm
  soft     the software hypervisor of Vireo itself
  auto     kvm where a short measurement finds it fit for stock kernels, else soft, and says so on stderr. The verdict is
           kept per boot in $XDG_CACHE_HOME/vireo (or ~/.cache/vireo)
)"},
    {"board", R"(--board q35|microvm
  q35      a PC with PCI Express (default)
  microvm  no PCI: virtio devices are memory-mapped and found through ACPI
--hpet on|off
  A high precision event timer (q35). On with firmware, off without, where a kernel has better clocks
)"},
    {"firmware", R"(--firmware seabios|ovmf|FILE[,vars=FILE][,secure=on][,menu][,sercon=off][,debug=FILE]     (--bios is the same)
  seabios      a PC's BIOS, which boots the first disk; taken without being asked for where there is no --kernel
  ovmf         UEFI. Both are Debian's packages of these names; a FILE is an image for the end of the first 4 GiB
               With --kernel UEFI starts that (and takes --initrd and --append) instead of a disk
  vars=FILE    a flash for UEFI's variables, kept in FILE; for ovmf it is made where there is none. Without it
               variables are lost at the end. One machine at a time
  secure=on    Secure Boot (UEFI; needs vars=): ovmf's build for it with vendors' keys, system management mode, and variables that
               nothing outside that mode can write
  menu         SeaBIOS asks which device to boot
  sercon=off   SeaBIOS does not show the screen on the first serial port; for an operating system's loader that
               writes there itself
  debug=FILE   what the firmware writes to the debug port 0x402
)"},
    {"vga", R"(--vga none|std[,rom=FILE]
  none         no screen (default)
  std          a VGA on PCI (1234:1111): text, graphics, and linear modes up to 2560x1600. `vireo ctl screen` prints a text
               screen, `vireo ctl screendump FILE` (QMP's screendump) writes a picture; no window, no VNC
  rom=FILE     its BIOS, Debian's package seabios has it; rom= (nothing): none
)"},
    {"config", R"(--config FILE
  One option a line, `name = value`; # starts a comment. Names are those of the options without dashes: `memory = 2G`,
  `disk = root.img,cache=none` (may be repeated), `rng = on`. What the command line says wins over the file.
)"},
    {"qmp", R"(--qmp unix:PATH[,server=on][,wait=off]
  Listens at PATH for programs that speak QEMU's machine protocol (QMP); may be repeated. This user alone (and root) may connect.
  query-commands lists what is there. `vireo ctl` needs no such option: every machine has a socket for it.
--name TEXT
  What vireo ctl and query-name call this machine.
)"},
    {"perf", R"(--perf-map, --jitdump FOLDER, --guest-symbols FILE: names of translated code for perf; --accel soft alone
  --perf-map             /tmp/perf-PID.map, which perf report and perf top look into
  --jitdump FOLDER       FOLDER/jit-PID.dump, with the code itself: perf record -k mono; perf inject --jit; then perf annotate
                         works as well
  --guest-symbols FILE   the guest kernel's functions: a copy of its /proc/kallsyms read by root, or its System.map where it
                         runs without KASLR (nokaslr)
  In a program under vireo kvm: VIREO_PERF_MAP=1, VIREO_JITDUMP=FOLDER, VIREO_GUEST_SYMBOLS=FILE in the environment.
)"},
    {"code-cache", R"(--code-cache FOLDER[,size=SIZE]: keeps translated code for the next machine; --accel soft alone
  FOLDER is made where only it is missing; it must belong to this user, and nobody else may write to it.
  size=SIZE              of all files in it together: 256M by default
  What a machine has translated is written when it ends, and now and then before that; several may use one folder.
  In a program under vireo kvm: VIREO_CODE_CACHE=FOLDER[,size=MIB] in the environment.
)"},
    {"exit", R"(exit status
  0        the guest powered off, was told to, or reset under --no-reboot
  1        an error on this side: one line on stderr names option, value and reason
  odd      --debug-exit: the guest's value v gives (v << 1) | 1
  SIGTERM and SIGINT press the guest's power button; a second one ends the machine. SIGHUP ends it.
)"},
};

}  // namespace

void print_help() {
  fputs("vireo: virtual machines\n"
        "  vireo run --disk FILE [...]     start a machine (vireo run --help)\n"
        "  vireo kvm -- PROGRAM [...]      give a program the software hypervisor as its /dev/kvm\n"
        "  vireo stat [PROCESS]            counters of a running machine (vireo stat --help)\n"
        "  vireo ctl [MACHINE] COMMAND     control a running machine (vireo ctl --help)\n"
        "  vireo img COMMAND [...]         make, convert, check and change disk images (vireo img --help)\n"
        "  vireo io -c COMMAND... FILE     read and write an image by script (vireo io --help)\n"
        "  vireo nbd [...] FILE            give an image to others over a socket (vireo nbd --help)\n"
        "  vireo --version\n",
        stdout);
}

Result<> print_run_help(const std::string& topic) {
  if (topic.empty() || topic.starts_with("-")) {
    fputs(kRun, stdout);
    return {};
  }
  for (const Topic& t : kTopics)
    if (topic == t.name) {
      fputs(t.text, stdout);
      return {};
    }
  std::string names;
  for (const Topic& t : kTopics) names += std::string(names.empty() ? "" : ", ") + t.name;
  return fail(ErrorKind::kInvalid, "--help " + topic + ": topics are " + names);
}

}  // namespace vireo::cli
