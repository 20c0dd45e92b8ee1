// SPDX-License-Identifier: Apache-2.0
// Writes ACPI Machine Language: each call gives the bytes of one term, terms nest as arguments.
// Spec: ACPI 6.5, chapter 20 (AML encoding), 6.4 (resource descriptors).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace vireo::aml {

using Bytes = std::vector<uint8_t>;

Bytes join(std::initializer_list<Bytes> parts);

Bytes integer(uint64_t value);
Bytes string(std::string_view text);
Bytes eisa_id(std::string_view id);  // "PNP0A08"
Bytes path(std::string_view name);   // "\\_SB.PCI0", "_HID", "^FOO"; segments of up to four letters
Bytes name(std::string_view name, const Bytes& value);
Bytes scope(std::string_view name, const Bytes& body);
Bytes device(std::string_view name, const Bytes& body);
Bytes package(std::initializer_list<Bytes> elements);
Bytes package(const std::vector<Bytes>& elements);
Bytes method(std::string_view name, unsigned arguments, const Bytes& body);
Bytes return_value(const Bytes& value);
Bytes buffer(const Bytes& contents);
Bytes resources(std::initializer_list<Bytes> descriptors);  // a buffer with an end tag
Bytes resources(const std::vector<Bytes>& descriptors);

// Resource descriptors.
Bytes io_ports(uint16_t start, uint8_t size);
Bytes irq_legacy(unsigned irq);                              // edge, high, exclusive
Bytes interrupt(uint32_t gsi, bool level, bool active_low, bool shared);
Bytes memory32(uint32_t start, uint32_t size, bool writable = true);
enum class Window { kMemory, kIo, kBus };
Bytes word_window(Window kind, uint16_t first, uint16_t last);
Bytes dword_window(uint32_t first, uint32_t last);
Bytes qword_window(uint64_t first, uint64_t last, bool prefetchable);

}  // namespace vireo::aml
