// SPDX-License-Identifier: Apache-2.0
#include "machine/aml.h"

#include <cctype>

#include "base/log.h"

namespace vireo::aml {
namespace {

void append(Bytes& to, const Bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

template <class T>
void put(Bytes& to, T value) {
  for (size_t i = 0; i < sizeof value; i++) to.push_back(static_cast<uint8_t>(static_cast<uint64_t>(value) >> 8 * i));
}

// PkgLength counts itself too (20.2.4).
Bytes with_length(const Bytes& body) {
  size_t size = body.size();
  Bytes out;
  if (size + 1 < 0x40) {
    out.push_back(static_cast<uint8_t>(size + 1));
  } else {
    unsigned extra = size + 2 < 0x1000 ? 1 : size + 3 < 0x100000 ? 2 : 3;
    size += 1 + extra;
    out.push_back(static_cast<uint8_t>(extra << 6 | (size & 15)));
    for (unsigned i = 0; i < extra; i++) out.push_back(static_cast<uint8_t>(size >> (4 + 8 * i)));
  }
  append(out, body);
  return out;
}

Bytes term(std::initializer_list<uint8_t> op, const Bytes& body) {
  Bytes out(op);
  append(out, with_length(body));
  return out;
}

}  // namespace

Bytes join(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) append(out, part);
  return out;
}

Bytes integer(uint64_t value) {
  if (value == 0) return {0x00};
  if (value == 1) return {0x01};
  Bytes out;
  if (value <= 0xff) {
    out = {0x0a};
    put<uint8_t>(out, value);
  } else if (value <= 0xffff) {
    out = {0x0b};
    put<uint16_t>(out, value);
  } else if (value <= 0xffffffff) {
    out = {0x0c};
    put<uint32_t>(out, value);
  } else {
    out = {0x0e};
    put<uint64_t>(out, value);
  }
  return out;
}

Bytes string(std::string_view text) {
  Bytes out{0x0d};
  out.insert(out.end(), text.begin(), text.end());
  out.push_back(0);
  return out;
}

Bytes eisa_id(std::string_view id) {
  auto hex = [](char c) { return static_cast<uint32_t>(c <= '9' ? c - '0' : toupper(c) - 'A' + 10); };
  uint32_t value = static_cast<uint32_t>(id[0] - 0x40) << 26 | static_cast<uint32_t>(id[1] - 0x40) << 21 |
                   static_cast<uint32_t>(id[2] - 0x40) << 16 | hex(id[3]) << 12 | hex(id[4]) << 8 | hex(id[5]) << 4 | hex(id[6]);
  return join({{0x0c}, {static_cast<uint8_t>(value >> 24), static_cast<uint8_t>(value >> 16), static_cast<uint8_t>(value >> 8),
                        static_cast<uint8_t>(value)}});
}

Bytes path(std::string_view name) {
  Bytes out;
  while (!name.empty() && (name[0] == '\\' || name[0] == '^')) {
    out.push_back(static_cast<uint8_t>(name[0]));
    name.remove_prefix(1);
  }
  std::vector<Bytes> segments;
  while (!name.empty()) {
    size_t dot = name.find('.');
    std::string_view segment = name.substr(0, dot);
    if (segment.size() > 4) panic("aml: name segment longer than four letters");
    Bytes bytes(segment.begin(), segment.end());
    bytes.resize(4, '_');
    segments.push_back(bytes);
    name = dot == std::string_view::npos ? "" : name.substr(dot + 1);
  }
  if (segments.empty()) out.push_back(0);
  if (segments.size() == 2) out.push_back(0x2e);
  if (segments.size() > 2) out.push_back(0x2f), out.push_back(static_cast<uint8_t>(segments.size()));
  for (const Bytes& segment : segments) append(out, segment);
  return out;
}

Bytes name(std::string_view name, const Bytes& value) { return join({{0x08}, path(name), value}); }
Bytes scope(std::string_view name, const Bytes& body) { return term({0x10}, join({path(name), body})); }
Bytes device(std::string_view name, const Bytes& body) { return term({0x5b, 0x82}, join({path(name), body})); }

Bytes package(const std::vector<Bytes>& elements) {
  Bytes body{static_cast<uint8_t>(elements.size())};
  if (elements.size() > 255) panic("aml: package of more than 255 elements");
  for (const Bytes& element : elements) append(body, element);
  return term({0x12}, body);
}
Bytes package(std::initializer_list<Bytes> elements) { return package(std::vector<Bytes>(elements)); }

Bytes method(std::string_view name, unsigned arguments, const Bytes& body) {
  return term({0x14}, join({path(name), {static_cast<uint8_t>(arguments)}, body}));
}
Bytes return_value(const Bytes& value) { return join({{0xa4}, value}); }
Bytes buffer(const Bytes& contents) { return term({0x11}, join({integer(contents.size()), contents})); }

Bytes resources(const std::vector<Bytes>& descriptors) {
  Bytes all;
  for (const Bytes& descriptor : descriptors) append(all, descriptor);
  append(all, {0x79, 0x00});
  return buffer(all);
}
Bytes resources(std::initializer_list<Bytes> descriptors) { return resources(std::vector<Bytes>(descriptors)); }

Bytes io_ports(uint16_t start, uint8_t size) {
  Bytes out{0x47, 0x01};
  put(out, start);
  put(out, start);
  out.push_back(1);
  out.push_back(size);
  return out;
}

Bytes irq_legacy(unsigned irq) {
  Bytes out{0x22};
  put<uint16_t>(out, static_cast<uint16_t>(1u << irq));
  return out;
}

Bytes interrupt(uint32_t gsi, bool level, bool active_low, bool shared) {
  Bytes out{0x89, 0x06, 0x00, static_cast<uint8_t>(1 | (level ? 0 : 2) | (active_low ? 4 : 0) | (shared ? 8 : 0)), 0x01};
  put(out, gsi);
  return out;
}

Bytes memory32(uint32_t start, uint32_t size, bool writable) {
  Bytes out{0x86, 0x09, 0x00, static_cast<uint8_t>(writable ? 1 : 0)};
  put(out, start);
  put(out, size);
  return out;
}

Bytes word_window(Window kind, uint16_t first, uint16_t last) {
  Bytes out{0x88, 0x0d, 0x00, static_cast<uint8_t>(kind == Window::kMemory ? 0 : kind == Window::kIo ? 1 : 2), 0x0c,
            static_cast<uint8_t>(kind == Window::kIo ? 3 : 0)};
  for (uint16_t value : {uint16_t{0}, first, last, uint16_t{0}, static_cast<uint16_t>(last - first + 1)}) put(out, value);
  return out;
}

Bytes dword_window(uint32_t first, uint32_t last) {
  Bytes out{0x87, 0x17, 0x00, 0x00, 0x0c, 0x01};  // memory, fixed ends, read-write, not cached
  for (uint32_t value : {0u, first, last, 0u, last - first + 1}) put(out, value);
  return out;
}

Bytes qword_window(uint64_t first, uint64_t last, bool prefetchable) {
  Bytes out{0x8a, 0x2b, 0x00, 0x00, 0x0c, static_cast<uint8_t>(prefetchable ? 7 : 1)};
  for (uint64_t value : {uint64_t{0}, first, last, uint64_t{0}, last - first + 1}) put(out, value);
  return out;
}

}  // namespace vireo::aml
