// SPDX-License-Identifier: Apache-2.0
// Puts a Linux bzImage, its initial RAM disk and ACPI tables into guest RAM, ready for the 64-bit entry. Spec: the kernel's
// Documentation/arch/x86/boot.rst; ACPI 6.5, chapter 5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <linux/kvm.h>

namespace vireo::moves {

// Ports of ACPI's fixed registers: status and enable, control.
constexpr uint16_t kPm1Event = 0x600, kPm1Control = 0x604;

// Fills in the boot processor's registers.
void load_linux(uint8_t* ram, size_t size, const std::string& kernel, const std::string& initrd, const std::string& command_line,
                unsigned cpus, kvm_regs& regs, kvm_sregs& sregs);

// Registers for flat 64-bit code at CPL 0; identity-mapping page tables of the first GiB go to `tables` (4 pages).
void enter_long_mode(uint8_t* ram, uint64_t tables, kvm_sregs& sregs);

}  // namespace vireo::moves
