// SPDX-License-Identifier: Apache-2.0
// Standard input, output and error: that they are there, and that what was written has arrived.
#pragma once

namespace vireo::cli {

// Opens those that were closed, on nothing. Else the next file, which may be a guest's disk, would become one of them, and what is printed
// be written into it.
void keep_standard_files();

// Flushes standard output before the end. True if that worked; why not is kept for finish_output().
bool flush_output();

// The exit status: 1, and a line on stderr, where what was printed did not get out (a full disk), else `status`.
int finish_output(int status);

}  // namespace vireo::cli
