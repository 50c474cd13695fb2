#include "../../emulation.h"
