#include "other.hpp"

#include <mistral/mistral.hpp>

// Links only if nothing in the library's headers is defined twice; both units must mean the same by what they share.
int main() { return message_of_other_unit() == mistral::concat("position ", 3) ? 0 : 1; }
