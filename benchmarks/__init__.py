from charlm.threads import wait_briefly

wait_briefly()  # as the command line does
