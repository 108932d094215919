package alone_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/joulecloud/joule/settlement/bench/alone"
	"github.com/joulecloud/joule/settlement/bench/workload"
)

func TestBig(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("BIG"))
	if n == 0 {
		t.Skip()
	}
	res, err := alone.Run(t.Context(), workload.Sized(n), []int{64, 1024}, 2*time.Second, true)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.MarshalIndent(res, "", " ")
	fmt.Println(string(b))
}
