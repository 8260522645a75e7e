package weights

import "time"

func init() { firstWait = time.Millisecond }
