// SPDX-License-Identifier: Apache-2.0
// Numbers of the NBD protocol, all big-endian on the wire. Spec: doc/proto.md of the NBD project.
#pragma once

#include <cstdint>

namespace vireo::storage::nbd {

inline constexpr uint64_t kMagic = 0x4e42444d41474943, kOptionMagic = 0x49484156454f5054, kOptionReplyMagic = 0x3e889045565a9;
inline constexpr uint32_t kRequestMagic = 0x25609513, kSimpleReplyMagic = 0x67446698, kStructuredReplyMagic = 0x668e33ef;
namespace handshake {
inline constexpr uint16_t kFixedNewstyle = 1, kNoZeroes = 2;
}
namespace option {
inline constexpr uint32_t kExportName = 1, kAbort = 2, kList = 3, kStartTls = 5, kInfo = 6, kGo = 7, kStructuredReply = 8,
                          kListMetaContext = 9, kSetMetaContext = 10;
}
namespace reply {
inline constexpr uint32_t kAck = 1, kServer = 2, kInfo = 3, kMetaContext = 4, kErrUnsupported = 0x80000001, kErrPolicy = 0x80000002,
                          kErrInvalid = 0x80000003, kErrTlsRequired = 0x80000005, kErrUnknown = 0x80000006, kErrTooBig = 0x80000009;
}
namespace info {
inline constexpr uint16_t kExport = 0, kName = 1, kDescription = 2, kBlockSize = 3;
}
namespace flag {  // of an export
inline constexpr uint16_t kHasFlags = 1, kReadOnly = 2, kSendFlush = 4, kSendFua = 8, kSendTrim = 32, kSendWriteZeroes = 64, kSendDf = 128,
                          kMultiConn = 256, kSendCache = 1024;
}
namespace command {
inline constexpr uint16_t kRead = 0, kWrite = 1, kDisconnect = 2, kFlush = 3, kTrim = 4, kCache = 5, kWriteZeroes = 6, kBlockStatus = 7;
}
namespace command_flag {
inline constexpr uint16_t kFua = 1, kNoHole = 2, kDf = 4, kReqOne = 8;
}
namespace chunk {
inline constexpr uint16_t kDone = 1;  // flag
inline constexpr uint16_t kNone = 0, kOffsetData = 1, kOffsetHole = 2, kBlockStatus = 5, kError = 0x8001;
}
namespace state {  // of base:allocation
inline constexpr uint32_t kHole = 1, kZero = 2;
}
inline constexpr uint32_t kMaxName = 4096, kMaxOption = 65536, kMaxContexts = 64, kMaxTransfer = 32 << 20, kMaxDescriptors = 2048;

}  // namespace vireo::storage::nbd
