// SPDX-License-Identifier: Apache-2.0
// What an NBD server elsewhere exports, as a File. By libnbd (LGPL, linked dynamically).
#pragma once

#include <optional>
#include <string>

#include "storage/file/file.h"

namespace vireo::storage::nbd {

struct Address {
  std::string uri;      // nbd://host[:port]/export, nbd+unix:///export?socket=path; nbds: with TLS
  std::string context;  // instead of base:allocation: what is set in it is shown as absent
};
// Of a name in one of the ways that QEMU knows: a URI, nbd:unix:path[:exportname=x], nbd:host:port[:exportname=x].
// Nothing: it is no NBD name.
std::optional<Address> parse_address(const std::string& name);
std::string unix_uri(const std::string& path, const std::string& export_name);
std::string tcp_uri(const std::string& host, const std::string& port, const std::string& export_name);

Result<std::unique_ptr<File>> open_nbd(const Address& address, bool read_only);

}  // namespace vireo::storage::nbd
