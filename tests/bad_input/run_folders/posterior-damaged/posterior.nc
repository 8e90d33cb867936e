not a posterior
