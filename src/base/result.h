// SPDX-License-Identifier: Apache-2.0
// Errors as values. A Result<T> holds a T or an Error with a kind, a message and the context it passed through.
#pragma once

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <utility>

namespace vireo {

enum class ErrorKind {
  kInvalid,      // the caller's or the user's value is wrong
  kNotFound,
  kBusy,         // held by somebody else
  kUnsupported,  // this host, file or build cannot do it
  kIo,           // the operating system refused; `code` has errno
  kCorrupt,      // data from outside breaks its format
  kInternal,
};

struct Error {
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;  // one line for a person, naming option, file or value, and the reason
  int code = 0;         // errno where the operating system gave one

  // The same error seen from further out: "context: message".
  Error within(const std::string& context) && {
    message = context + ": " + message;
    return std::move(*this);
  }
};

template <class T = void>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(ErrorKind kind, std::string message, int code = 0) {
  return std::unexpected(Error{kind, std::move(message), code});
}

// An Error from errno: "what: No such file or directory".
inline std::unexpected<Error> fail_errno(const std::string& what, int code = errno) {
  ErrorKind kind = code == ENOENT ? ErrorKind::kNotFound
                   : code == EBUSY || code == EADDRINUSE || code == EAGAIN ? ErrorKind::kBusy
                                                                            : ErrorKind::kIo;
  return std::unexpected(Error{kind, what + ": " + std::strerror(code), code});
}

}  // namespace vireo

// Evaluates an expression of type Result<T>; on an error returns it from the enclosing function, else yields the T.
#define TRY(expression)                                                      \
  ({                                                                         \
    auto try_result_ = (expression);                                         \
    if (!try_result_) return std::unexpected(std::move(try_result_).error()); \
    std::move(try_result_).value();                                          \
  })
// The same for Result<void>.
#define TRY_VOID(expression)                                                 \
  do {                                                                       \
    auto try_result_ = (expression);                                         \
    if (!try_result_) return std::unexpected(std::move(try_result_).error()); \
  } while (0)
