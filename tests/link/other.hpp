#pragma once

#include <string>

/// A message of the library's, made in another translation unit.
std::string message_of_other_unit();
